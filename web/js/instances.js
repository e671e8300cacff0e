// From what the graph says to instances, as `build_instances` in src/mobius_seg/jobs.py.

import { cropLogits, encodeMask, makeSampling, maskIou } from "./masks.js";
import { atLeast, rank } from "./selection.js";

// What a graph said about one picture. Masks are computed when they are asked for and kept, so that
// another threshold costs only the masks that it adds.
export class Answer {
  // `output`: scores [Q, K], boxes [Q, 4] and masks [Q, h, w] as { data, dims } without the batch
  // dimension; `model`: model.json; `labels`: one for each column.
  constructor(output, frame, model, labels) {
    const [queries, columns] = output.scores.dims;
    this.labels = labels;
    this.ranked = rank(output.scores.data, queries, columns, model.calibration.names);
    this.frame = frame;
    this.model = model;
    this.boxes = output.boxes.data;
    this.logits = output.masks.data;
    this.size = output.masks.dims.slice(1);
    this.sampling = makeSampling(frame, this.size);
    this.decided = []; // the first pairs of `ranked`, best first: a mask, or null where it goes
  }

  // The instances at a threshold, best first: { id, name, score, mask }. `id` stays the same for
  // every threshold.
  instances(threshold, most = 100) {
    const found = [];
    const chosen = atLeast(this.ranked, threshold);
    for (let i = 0; i < chosen.length && found.length < most; i++) {
      if (i === this.decided.length) this.decided.push(this.decide(i));
      const mask = this.decided[i];
      const { query, column, score } = chosen[i];
      if (mask) found.push({ id: query, name: this.labels[column], score, mask });
    }
    return found;
  }

  // The mask of the pair at a place; null where it is empty or repeats a better one.
  decide(place) {
    const mask = this.readMask(this.ranked[place].query);
    if (!mask || this.model.nms_iou >= 1) return mask;
    const repeats = this.decided.some((kept) => kept && maskIou(kept, mask) >= this.model.nms_iou);
    return repeats ? null : mask;
  }

  readMask(query) {
    const cells = this.size[0] * this.size[1];
    const logits = this.logits.subarray(query * cells, (query + 1) * cells);
    const box = this.boxes.subarray(query * 4, query * 4 + 4);
    const cropped = cropLogits(logits, this.size, box, this.model.mask_margin);
    return encodeMask(cropped, this.size, this.sampling, this.frame.original);
  }
}
