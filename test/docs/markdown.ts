/** What the documentation's test reads of a Markdown page. */

export interface Block {
  /** The word after the fence: ts, sh, text. */
  language: string;
  text: string;
  /** Line of the fence, from 1. */
  line: number;
}

/** Fenced blocks, in order. */
export function blocksOf(page: string): Block[] {
  return [...page.matchAll(/^```(\w*)\n(.*?)^```$/gms)].map((match) => ({
    language: match[1],
    text: match[2],
    line: page.slice(0, match.index).split('\n').length,
  }));
}

/** A program and, where a text block follows at once, what it prints. */
export interface Sample {
  program: Block;
  prints?: string;
}

export function samplesOf(page: string): Sample[] {
  const blocks = blocksOf(page);
  return blocks.flatMap((program, i) => {
    if (program.language !== 'ts') return [];
    const next = blocks[i + 1];
    const end = program.line + program.text.split('\n').length; // the line of the closing fence
    const follows = next?.language === 'text' && next.line === end + 2;
    return [{ program, ...(follows && { prints: next.text }) }];
  });
}

const prose = (page: string) => page.replace(/^```.*?^```$/gms, '');

/** Targets of links and pictures. */
export const linksOf = (page: string): string[] =>
  [...prose(page).matchAll(/\]\(([^)\s]+)\)/g)].map((match) => match[1]);

/** The anchors of a page's headings, as GitHub makes them. */
export const anchorsOf = (page: string): string[] =>
  [...prose(page).matchAll(/^#+ (.*)$/gm)].map((match) =>
    match[1]
      .toLowerCase()
      .replace(/[^\w\- ]/g, '')
      .replaceAll(' ', '-'),
  );

/** Code spans of the first column of every table, without the head. */
export const firstColumnCode = (page: string): string[] =>
  [...prose(page).matchAll(/^\| (?!---)(.*?) \|/gm)].flatMap((row) =>
    [...row[1].matchAll(/`([^`]+)`/g)].map((span) => span[1]),
  );

/** Commands that a page tells the reader to run: lines of sh blocks, without comments, and code spans that begin with npm or npx. */
export function commandsOf(page: string): string[] {
  const lines = blocksOf(page)
    .filter(({ language }) => language === 'sh')
    .flatMap(({ text }) => text.split('\n'));
  const spans = [...prose(page).matchAll(/`((?:npm|npx) [^`]+)`/g)].map((match) => match[1]);
  return [...lines, ...spans].map((command) => command.replace(/ *#.*/, '').trim()).filter(Boolean);
}

const REPOSITORY =
  /^https:\/\/(?:github\.com|raw\.githubusercontent\.com)\/sas-attention\/sas-attention\/(?:(?:blob|tree)\/)?main\//;

/** The path in the repository that an absolute link leads to; undefined: it leads elsewhere. */
export const inRepository = (link: string): string | undefined =>
  REPOSITORY.test(link) ? link.replace(REPOSITORY, '') : undefined;
