// The worker as an object of promises.

import { UserError } from "./errors.js";

export class Client {
  // `onProgress` hears what is going on.
  constructor(onProgress) {
    if (typeof WebAssembly !== "object" || typeof Worker !== "function") {
      throw new UserError("This browser has no WebAssembly or no workers; the page needs both.");
    }
    this.waiting = new Map();
    this.count = 0;
    this.worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    this.worker.onmessage = ({ data }) => {
      if (data.progress) onProgress(data.progress);
      else this.settle(data);
    };
    this.worker.onerror = (event) => {
      event.preventDefault();
      const reason = new UserError("The page's worker could not be started. Reload the page.");
      this.waiting.forEach(({ reject }) => reject(reason));
      this.waiting.clear();
    };
  }

  settle({ id, result, error, expected, superseded }) {
    const { resolve, reject } = this.waiting.get(id) ?? {};
    this.waiting.delete(id);
    if (!resolve) return;
    if (superseded) resolve(null);
    else if (error === undefined) resolve(result);
    else reject(new UserError(expected ? error : explain(error)));
  }

  ask(kind, values = {}, transfer = []) {
    const id = ++this.count;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, kind, ...values }, transfer);
    });
  }
}

// The runtime's own words, with what they mean in front where that is known.
function explain(error) {
  if (/memory|allocat|RangeError/i.test(error)) {
    return "The browser has no memory left for this. Close other tabs or choose a smaller input.";
  }
  if (/no available backend|wasm/i.test(error)) {
    return `WebAssembly could not be started in this browser (${error.slice(0, 120)}).`;
  }
  return `Something went wrong: ${error.slice(0, 200)}`;
}
