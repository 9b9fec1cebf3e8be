/// <reference types="vite/client" />
import { expect, it } from "vitest";

const SOURCES = import.meta.glob<string>("../src/**/*.ts", { query: "?raw", import: "default", eager: true });
/** Two words in a row, the first with a capital letter, as people read them. */
const SENTENCE = /["`](?:[A-Z][a-z]+|[a-z]+ \$\{[^}]*\})[ ,:][a-z][^"`]*["`]/g;

it("keeps every text that people read in the tables of strings, ready for translation", () => {
  const files = Object.entries(SOURCES).filter(([name]) => !name.endsWith("strings.ts"));
  expect(files.length).toBeGreaterThan(30);
  const found = files.flatMap(([name, source]) => {
    const code = source.replace(/\/\*[\s\S]*?\*\/|\/\/.*$/gm, "");
    return [...code.matchAll(SENTENCE)].map((match) => `${name}: ${match[0]}`);
  });
  expect(found).toEqual([]);
});

it("would find such a text elsewhere", () => {
  expect('h("p", {}, "Enter a prompt first")'.match(SENTENCE)).not.toBeNull();
});
