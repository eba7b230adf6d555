/** The messages that the sources make, for what the documentation quotes of them. */
import ts from 'typescript';

/** Stands for what a message holds from case to case. */
export const HOLE = '\0';

/** The text that an expression makes; alternatives of a conditional each for itself. */
function textsOf(node: ts.Node, constants: ReadonlyMap<string, ts.Node>): string[] {
  if (ts.isStringLiteralLike(node)) return [node.text];
  if (ts.isParenthesizedExpression(node) || ts.isAsExpression(node)) return textsOf(node.expression, constants);
  if (ts.isConditionalExpression(node)) {
    return [...textsOf(node.whenTrue, constants), ...textsOf(node.whenFalse, constants)];
  }
  if (ts.isTemplateExpression(node)) {
    return node.templateSpans.reduce(
      (texts, { expression, literal }) => joined(joined(texts, textsOf(expression, constants)), [literal.text]),
      [node.head.text],
    );
  }
  if (ts.isBinaryExpression(node) && node.operatorToken.kind === ts.SyntaxKind.PlusToken) {
    return joined(textsOf(node.left, constants), textsOf(node.right, constants));
  }
  const constant = ts.isIdentifier(node) ? constants.get(node.text) : undefined;
  return constant === undefined ? [HOLE] : textsOf(constant, new Map());
}

const joined = (first: readonly string[], second: readonly string[]): string[] =>
  first.flatMap((a) => second.map((b) => a + b));

/** Whole messages of errors, and the texts that are handed to what makes them (reasons in brackets, expectations). */
export function typescriptMessages(source: string): string[] {
  const file = ts.createSourceFile('source.ts', source, ts.ScriptTarget.Latest, true);
  const constants = new Map<string, ts.Node>();
  const messages: string[] = [];
  const visit = (node: ts.Node): void => {
    if (ts.isVariableDeclaration(node) && ts.isIdentifier(node.name) && node.initializer) {
      constants.set(node.name.text, node.initializer);
    }
    if (ts.isNewExpression(node) || ts.isCallExpression(node)) {
      for (const argument of node.arguments ?? []) messages.push(...textsOf(argument, constants));
    }
    ts.forEachChild(node, visit);
  };
  visit(file);
  return messages.filter((message) => message.includes(' '));
}

/** Of C++: the literals of a statement, with a hole where anything stands between two of them. */
export function nativeMessages(source: string): string[] {
  const code = source.replace(/("(?:\\.|[^"\\\n])*")|\/\/.*|\/\*[\s\S]*?\*\//g, (_, literal = '') => literal);
  const statements = code.match(/(?:"(?:\\.|[^"\\\n])*"|[^";{}])+/g) ?? [];
  return statements.flatMap((statement) => {
    const parts = statement.split(/("(?:\\.|[^"\\\n])*")/);
    const text = parts
      .map((part, i) => (i % 2 === 1 ? JSON.parse(part.replace(/\\'/g, "'")) : part.trim() === '' ? '' : HOLE))
      .join('')
      .replace(/%[-\d.]*(?:l|ll|z)?[a-z]/g, HOLE);
    return text.includes(' ') ? [text] : [];
  });
}

/** Whether a quote is of this message: its parts stand in it, in order, and between two of them is a hole or more text. */
export function isOf(quote: string, message: string): boolean {
  let at = 0;
  return quote
    .split('...')
    .map((part) => part.trim())
    .every((part) => {
      const found = message.indexOf(part, at);
      at = found + part.length;
      return found >= 0;
    });
}
