// What the npm checks share; the same lines as common.py prints.
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import path from 'node:path';

export const URL_ = (process.env.INFALL_URL || 'http://127.0.0.1:8000').replace(/\/$/, '');
export const KEY = process.env.INFALL_KEY || 'none';
export const SCRIPTED = process.env.INFALL_SCRIPTED === '1';

// Packages are looked up in the folder of --node, not beside this file.
const require = createRequire(path.join(process.env.INFALL_NODE || '.', 'package.json'));
export const load = (name) => import(pathToFileURL(require.resolve(name)));

export class Cut extends Error {}

export function same(found, expected) {
  const [a, b] = [JSON.stringify(found), JSON.stringify(expected)];
  if (a !== b) throw new Error(`found ${a}, expected ${b}`);
}

export function holds(is, what) {
  if (!is) throw new Error(what);
}

export async function main(checks) {
  let failed = 0;
  for (const [name, run] of Object.entries(checks)) {
    const begin = Date.now();
    let line = `ok ${name}`;
    try {
      await run();
    } catch (error) {
      if (error instanceof Cut) line = `cut ${name}: ${error.message}`;
      else {
        failed += 1;
        console.error(error);
        line = `FAIL ${name}: ${String(error).replace(/\s+/g, ' ').slice(0, 300)}`;
      }
    }
    console.log(`${line} (${((Date.now() - begin) / 1000).toFixed(1)} s)`);
  }
  process.exit(failed ? 1 : 0);
}
