/** What is wrong with a record; whoever reads the file adds where it stands. */
export class RecordError extends Error {}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** The fields of one record, each checked as it is read. */
export class Fields {
  private constructor(private readonly record: Readonly<Record<string, unknown>>) {}

  /** `what`: how an error calls the value. */
  static of(value: unknown, what: string): Fields {
    if (!isObject(value)) throw new RecordError(`${what} must be an object`);
    return new Fields(value);
  }

  get names(): string[] {
    return Object.keys(this.record);
  }

  /** Test sets without answers leave a field out, or leave it empty. */
  has(name: string): boolean {
    return Object.hasOwn(this.record, name) && this.record[name] !== null && this.record[name] !== '';
  }

  isText(name: string): boolean {
    return typeof this.record[name] === 'string';
  }

  isList(name: string): boolean {
    return Array.isArray(this.record[name]);
  }

  text(name: string): string {
    const value = this.get(name);
    if (typeof value !== 'string') throw new RecordError(`'${name}' must be a text`);
    return value;
  }

  /** A name or number of a choice. */
  label(name: string): string {
    const value = this.get(name);
    if (typeof value !== 'string' && typeof value !== 'number') {
      throw new RecordError(`'${name}' must be a text or a number`);
    }
    return String(value);
  }

  texts(name: string): string[] {
    const value = this.list(name);
    if (!value.every((item) => typeof item === 'string')) throw new RecordError(`'${name}' must be a list of texts`);
    return value;
  }

  object(name: string): Fields {
    return Fields.of(this.get(name), `'${name}'`);
  }

  objects(name: string): Fields[] {
    return this.list(name).map((item, i) => Fields.of(item, `'${name}[${i}]'`));
  }

  private list(name: string): unknown[] {
    const value = this.get(name);
    if (!Array.isArray(value) || value.length === 0)
      throw new RecordError(`'${name}' must be a list that is not empty`);
    return value;
  }

  private get(name: string): unknown {
    if (!Object.hasOwn(this.record, name) || this.record[name] === null) {
      throw new RecordError(`'${name}' is missing`);
    }
    return this.record[name];
  }
}
