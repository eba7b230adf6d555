import { type Array64, zeros64 } from './array64.js';

/** Section 4, the mean over groups: x [B,T,r*H,D] -> [B,T,H*D] */
export function aggregate(x: Array64, heads: number): Array64 {
  const [batch, time, simHeads, width] = x.shape;
  const groups = simHeads / heads;
  const output = zeros64([batch, time, heads * width]);
  for (let token = 0; token < batch * time; token++) {
    for (let simHead = 0; simHead < simHeads; simHead++) {
      const head = simHead % heads;
      for (let d = 0; d < width; d++) {
        output.data[(token * heads + head) * width + d] += x.data[(token * simHeads + simHead) * width + d] / groups;
      }
    }
  }
  return output;
}

/** gradOutput [B,T,H*D] -> [B,T,r*H,D] */
export function aggregateBackward(gradOutput: Array64, heads: number, simHeads: number): Array64 {
  const [batch, time, features] = gradOutput.shape;
  const width = features / heads;
  const groups = simHeads / heads;
  const gradX = zeros64([batch, time, simHeads, width]);
  for (let token = 0; token < batch * time; token++) {
    for (let simHead = 0; simHead < simHeads; simHead++) {
      const head = simHead % heads;
      for (let d = 0; d < width; d++) {
        gradX.data[(token * simHeads + simHead) * width + d] =
          gradOutput.data[(token * heads + head) * width + d] / groups;
      }
    }
  }
  return gradX;
}
