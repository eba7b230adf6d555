// `npm run train`: the training example, `npx sas-attention train`, with a book and a picture of the curves.

import { runProgram } from '../../../lib/cli/run_program.js';
import { trainCommand } from '../../../lib/cli/train/command.js';
import { mobyDick } from '../texts.js';
import { writeLossPicture } from './loss_picture.js';

await runProgram('train', () =>
  trainCommand(process.argv.slice(2), {
    call: 'npm run train --',
    book: mobyDick,
    extraFiles: [['loss.svg, loss.png', 'the curves']],
    finish: writeLossPicture,
  }),
);
