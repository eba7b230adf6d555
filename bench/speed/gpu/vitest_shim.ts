/**
 * Stands in for `vitest` in the bundle: the runner and matchers that vitest itself is made of, without its server, config and
 * workers. What the parity tests do not use (mocks, snapshots, soft assertions) is absent and fails where it is called.
 */
import * as vitest from '@vitest/expect';
import { getCurrentTest } from '@vitest/runner';

export { afterAll, afterEach, beforeAll, beforeEach, describe, it, test } from '@vitest/runner';

const { chai, getState, setState } = vitest;

chai.config.truncateThreshold = 2000; // characters of what a message shows: there is no diff beside it
chai.use(vitest.JestExtend);
chai.use(vitest.JestChaiExpect);
chai.use(vitest.ChaiStyleAssertions);
chai.use(vitest.JestAsymmetricMatchers);

const global = globalThis as unknown as Record<symbol, object>;

function makeExpect(): vitest.ExpectStatic {
  const expect = ((value: unknown, message?: string) => {
    setState({ assertionCalls: getState(expect).assertionCalls + 1 }, expect);
    const assertion = chai.expect(value, message) as unknown as { withTest(test: unknown): unknown };
    const test = getCurrentTest();
    return test ? assertion.withTest(test) : assertion;
  }) as unknown as vitest.ExpectStatic;
  Object.assign(expect, chai.expect, global[vitest.ASYMMETRIC_MATCHERS_OBJECT]);
  expect.getState = () => getState(expect);
  expect.setState = (state) => setState(state, expect);
  setState({ assertionCalls: 0, isExpectingAssertions: false, expectedAssertionsNumber: null }, expect);
  const extend = chai.expect as unknown as { extend(target: object, matchers: vitest.MatchersObject): void };
  expect.extend = (matchers) => extend.extend(expect, matchers);
  expect.extend(vitest.customMatchers);
  return expect;
}

export const expect = makeExpect();
Object.defineProperty(globalThis, vitest.GLOBAL_EXPECT, { value: expect, writable: true, configurable: true });
