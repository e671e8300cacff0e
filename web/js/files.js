// Files of the page's own folder, with progress and with errors that say what to do.

import { UserError } from "./errors.js";

// A loader of files below `base`, a URL that ends in a slash; `report` hears how far it is.
export function makeLoader(base, report) {
  return async function load(path) {
    let response;
    try {
      response = await fetch(new URL(path, base));
    } catch {
      throw new UserError(`assets/${path} could not be fetched. Is the page's server still there?`);
    }
    if (!response.ok) {
      throw new UserError(
        `assets/${path} is not there (HTTP ${response.status}). Run make web first.`,
      );
    }
    return readAll(response, path, report);
  };
}

async function readAll(response, path, report) {
  const total = Number(response.headers.get("Content-Length"));
  const chunks = [];
  let length = 0;
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    chunks.push(value);
    length += value.length;
    if (length > 2e6 || total > 2e6) report(progress(path, length, total));
  }
  const bytes = new Uint8Array(length);
  chunks.reduce((at, chunk) => (bytes.set(chunk, at), at + chunk.length), 0);
  return bytes;
}

function progress(path, length, total) {
  const what = path.startsWith("text_encoder") ? "text encoder" : "network";
  const done = (length / 1e6).toFixed(1);
  return total >= length
    ? `Loading the ${what}: ${done} of ${(total / 1e6).toFixed(1)} MB`
    : `Loading the ${what}: ${done} MB`;
}
