/** Errors that the programs of this package expect: their message is all that a user needs. */

/** The command line, or what it names, is wrong: exit code 2. */
export class UsageError extends Error {}

/** What was asked for did not succeed, for a reason the message gives: exit code 1. */
export class Failure extends Error {}
