// What the user can do something about: its message is shown as it is, without a stack.
export class UserError extends Error {
  constructor(message) {
    super(message);
    this.name = "UserError";
  }
}
