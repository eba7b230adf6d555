/** The generator behind `Tensor.randn`: Philox 4x32-10 (Salmon et al. 2011), written from the paper. */
const WORD = 2n ** 32n;
const low = (value: bigint): bigint => value % WORD;
const high = (value: bigint): bigint => value / WORD;

/** Ten rounds over a counter of four words, with a key of two. */
export function philox(counter: readonly bigint[], key: readonly bigint[]): bigint[] {
  let [a, b, c, d] = counter;
  let [k, l] = key;
  for (let round = 0; round < 10; round++) {
    const [first, second] = [0xd2511f53n * a, 0xcd9e8d57n * c];
    [a, b, c, d] = [high(second) ^ b ^ k, low(second), high(first) ^ d ^ l, low(first)];
    [k, l] = [low(k + 0x9e3779b9n), low(l + 0xbb67ae85n)];
  }
  return [a, b, c, d];
}

/** Element `index` of a tensor of standard normal numbers: Box-Muller, two elements of one counter. */
export function normalElement(seed: number, index: number): number {
  const [pair, key] = [BigInt(Math.floor(index / 2)), BigInt(seed)];
  const words = philox([low(pair), high(pair), 0n, 0n], [low(key), high(key)]);
  const unit = (upper: bigint, lower: bigint) => Number((upper * WORD + lower) / 2n ** 11n) * 2 ** -53;
  const radius = Math.sqrt(-2 * Math.log(1 - unit(words[0], words[1])));
  const angle = 2 * Math.PI * unit(words[2], words[3]);
  return radius * (index % 2 === 0 ? Math.cos(angle) : Math.sin(angle));
}
