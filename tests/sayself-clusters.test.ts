/** Greedy clusters of responses, and where the vectors come from: files of NumPy's, the policy's states, a server. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import t from "tap";
import { NumpyRandom } from "../src/data/random.js";
import { joinVectors, npyBytes, openNpy, type Vectors } from "../src/data/vectors.js";
import { greedyClusters } from "../src/methods/sayself/clusters.js";
import { fileVectors, policyVectors, serverVectors } from "../src/methods/sayself/response-vectors.js";
import { Model } from "../src/policy/model.js";
import { pooledTexts } from "../src/policy/pooled.js";
import { EmbeddingsServer } from "../src/remote/embeddings-server.js";
import { type Call, fakeServer } from "./fixtures/fake-server.js";
import { writeTinyModel } from "./fixtures/tiny-model.js";

const vectors = (rows: readonly (readonly number[])[]): Vectors => ({
  data: Float32Array.from(rows.flat()),
  count: rows.length,
  width: rows[0]?.length ?? 0,
});

/** The definition, word by word. */
function defined(rows: readonly (readonly number[])[], threshold: number): number[][] {
  const cosine = (a: readonly number[], b: readonly number[]) => {
    const sum = (x: readonly number[], y: readonly number[]) => x.reduce((all, value, i) => all + value * y[i]!, 0);
    const lengths = Math.sqrt(sum(a, a)) * Math.sqrt(sum(b, b));
    return lengths === 0 ? Number.NEGATIVE_INFINITY : sum(a, b) / lengths;
  };
  let left = rows.map((_, row) => row);
  const out: number[][] = [];
  while (left.length > 0) {
    const [first, ...others] = left as [number, ...number[]];
    const joins = others.filter((row) => cosine(rows[first]!, rows[row]!) > threshold);
    out.push([first, ...joins]);
    left = others.filter((row) => !joins.includes(row));
  }
  return out;
}

/** Small whole numbers: their products and sums are exact, and equal cosines come up often. */
const someRows = fc.integer({ min: 1, max: 9 }).chain((width) =>
  fc.array(fc.array(fc.integer({ min: -3, max: 3 }), { minLength: width, maxLength: width }), {
    minLength: 1,
    maxLength: 24,
  }),
);
/** Of no two such vectors. */
const someThreshold = fc.constantFrom(-0.9137, -0.1237, 0.3137, 0.7193, 0.9037);

t.test("the first that is left begins a cluster, and what lies above the threshold joins", async (t) => {
  const rows = [
    [1, 0],
    [0, 1],
    [1, 0.1],
    [0.1, 1],
    [0, 0],
    [1, 0],
  ];
  t.same(greedyClusters(vectors(rows), 0.9), [[0, 2, 5], [1, 3], [4]]);
  t.same(greedyClusters(vectors([]), 0.9), []);
  t.same(
    greedyClusters(
      vectors([
        [0, 0],
        [0, 0],
      ]),
      -1,
    ),
    [[0], [1]],
    "a vector without a direction is like none",
  );
  // Not who is nearest, nor who is near to a member: the first decides.
  const arc = [0, 25, 50].map((degrees) => [Math.cos((degrees * Math.PI) / 180), Math.sin((degrees * Math.PI) / 180)]);
  t.same(greedyClusters(vectors(arc), 0.9), [[0, 1], [2]]);
  t.same(greedyClusters(vectors([arc[1]!, arc[0]!, arc[2]!]), 0.9), [[0, 1, 2]]);
});

t.test("at the threshold itself nothing joins", async (t) => {
  // 3-4-5: the cosine is 0.6 to the bit.
  const rows = [
    [1, 0],
    [3, 4],
    [4, 3],
  ];
  t.same(greedyClusters(vectors(rows), 0.6), [[0, 2], [1]]);
  t.same(greedyClusters(vectors(rows), 0.6 - 1e-12), [[0, 1, 2]]);
  for (const threshold of [1, 1.5, -1.1, Number.NaN])
    t.throws(() => greedyClusters(vectors(rows), threshold), { code: "BAD_INPUT", message: /threshold/ });
  for (const value of [Number.NaN, Number.POSITIVE_INFINITY])
    t.throws(
      () =>
        greedyClusters(
          vectors([
            [1, 0],
            [value, 1],
          ]),
          0.9,
        ),
      { message: /vector 2 of 2 holds a number/ },
    );
});

t.test("clusters are a partition in order, the definition's own, whatever the vectors' lengths", async () => {
  fc.assert(
    fc.property(someRows, someThreshold, (rows, threshold) => {
      const found = greedyClusters(vectors(rows), threshold);
      const all = found.flat().sort((a, b) => a - b);
      const ordered = found.every((members) => members.every((row, i) => i === 0 || row > members[i - 1]!));
      const firsts = found.map(([first]) => first!);
      const longer = rows.map((row, i) => row.map((value) => value * 2 ** (i % 5)));
      return (
        all.length === rows.length &&
        all.every((row, i) => row === i) &&
        ordered &&
        firsts.every((first, i) => i === 0 || first > firsts[i - 1]!) &&
        JSON.stringify(found) === JSON.stringify(defined(rows, threshold)) &&
        JSON.stringify(found) === JSON.stringify(greedyClusters(vectors(longer), threshold))
      );
    }),
    { numRuns: 300 },
  );
});

t.test("wide vectors, near the threshold and far from it", async (t) => {
  const random = new NumpyRandom(3);
  const drawn = (width: number) => Array.from({ length: width }, () => 2 * random.random() - 1);
  for (const width of [63, 64, 65, 200]) {
    const centre = drawn(width);
    const rows = Array.from({ length: 40 }, (_, k) => {
      const noise = drawn(width);
      return centre.map((value, i) => Math.fround(value + (noise[i]! * k) / 20));
    });
    for (const threshold of [0.3, 0.7, 0.9, 0.99]) {
      const found = greedyClusters(vectors(rows), threshold);
      t.same(found, defined(rows, threshold), `${width} numbers, ${threshold}`);
    }
  }
});

t.test("the first cluster is the same set in whatever order the others stand", async () => {
  fc.assert(
    fc.property(someRows, someThreshold, fc.infiniteStream(fc.nat()), (rows, threshold, keys) => {
      const order = rows
        .map((_, row) => ({ row, key: row === 0 ? -1 : (keys.next().value as number) }))
        .sort((a, b) => a.key - b.key)
        .map(({ row }) => row);
      const moved = greedyClusters(vectors(order.map((row) => rows[row]!)), threshold)[0]!.map((row) => order[row]!);
      const own = greedyClusters(vectors(rows), threshold)[0]!;
      return JSON.stringify(moved.sort((a, b) => a - b)) === JSON.stringify(own);
    }),
    { numRuns: 200 },
  );
});

// ---- .npy

/** An array as numpy.save writes it. */
function npy(descr: string, shape: readonly number[], body: Uint8Array, { version = 1, order = "False" } = {}): Buffer {
  const text = `{'descr': '${descr}', 'fortran_order': ${order}, 'shape': (${shape.join(", ")}${shape.length === 1 ? "," : ""}), }`;
  const before = version === 1 ? 10 : 12;
  const length = 64 * Math.ceil((before + text.length + 1) / 64) - before;
  const begin = Buffer.alloc(before);
  begin.write("\x93NUMPY", "latin1");
  begin[6] = version;
  if (version === 1) begin.writeUInt16LE(length, 8);
  else begin.writeUInt32LE(length, 8);
  return Buffer.concat([begin, Buffer.from(`${text.padEnd(length - 1)}\n`, "latin1"), body]);
}

const floats = (...values: number[]) => new Uint8Array(Float32Array.from(values).buffer);

t.test("rows of a .npy file, of each type and format, some at a time", async (t) => {
  const folder = t.testdir({});
  const put = (name: string, bytes: Uint8Array) => {
    writeFileSync(join(folder, name), bytes);
    return join(folder, name);
  };
  const six = [1, -2.5, 0.125, 4, 5, 65504];
  const doubles = new Uint8Array(Float64Array.from(six).buffer);
  const halves = new Uint8Array(Uint16Array.of(0x3c00, 0xc100, 0x3000, 0x4400, 0x4500, 0x7bff).buffer);
  for (const [descr, body, version] of [
    ["<f4", floats(...six), 1],
    ["<f8", doubles, 2],
    ["<f2", halves, 3],
  ] as const) {
    const file = openNpy(put("a.npy", npy(descr, [3, 2], body, { version })));
    t.same([file.rows, file.width, file.shape], [3, 2, [3, 2]], descr);
    t.same([...file.read(0, 3).data], six, descr);
    t.same([...file.read(1, 2).data], [0.125, 4], descr);
    t.same(file.read(2, 2), { data: new Float32Array(), count: 0, width: 2 });
    t.throws(() => file.read(2, 4), { code: "BAD_INPUT" });
  }
  t.equal(openNpy(put("b.npy", npy("<f4", [3, 1, 2], floats(...six)))).rows, 3);
  const good = npy("<f4", [3, 2], floats(...six));
  for (const [why, bytes] of [
    [/is no \.npy file/, Buffer.from("PK\x03\x04 and something more")],
    [/is no \.npy file/, Buffer.alloc(3)],
    [/format 9\./, npy("<f4", [3, 2], floats(...six), { version: 9 })],
    [/of type <i8; expected <f4/, npy("<i8", [3, 2], doubles)],
    [/numbers of type >f4/, npy(">f4", [3, 2], floats(...six))],
    [/columns one after the other/, npy("<f4", [3, 2], floats(...six), { order: "True" })],
    [/of shape \(6\); expected rows/, npy("<f4", [6], floats(...six))],
    [/of shape \(3, 0\)/, npy("<f4", [3, 0], new Uint8Array())],
    [/takes \d+: it is cut off/, good.subarray(0, good.length - 1)],
    [/takes \d+: it is cut off/, Buffer.concat([good, Buffer.alloc(4)])],
    [/its header does not say/, Buffer.from(good.toString("latin1").replace("'shape'", "'shade'"), "latin1")],
    [/of type <u4/, Buffer.from(npyBytes([1, 2]))],
  ] as const)
    t.throws(() => openNpy(put("bad.npy", bytes)), { code: "BAD_INPUT", message: why });
  t.throws(() => openNpy(join(folder, "none.npy")), { code: "NO_FILE" });
  t.throws(() => openNpy(folder), { code: "NO_FILE" });
  fc.assert(
    fc.property(
      fc.nat({ max: good.length - 1 }),
      fc.nat({ max: 255 }),
      fc.nat({ max: good.length }),
      (at, byte, end) => {
        const changed = Buffer.from(good);
        changed[at] = byte;
        const path = put("changed.npy", changed.subarray(0, end));
        try {
          const file = openNpy(path);
          return file.read(0, file.rows).data.length === file.rows * file.width;
        } catch (error) {
          const { code, message } = error as { code: string; message: string };
          return code === "BAD_INPUT" && message.includes(path);
        }
      },
    ),
    { numRuns: 300 },
  );
});

t.test("vectors of a file are dealt to its questions, which have to be as many", async (t) => {
  const folder = t.testdir({});
  const path = join(folder, "v.npy");
  writeFileSync(path, npy("<f4", [5, 1], floats(1, 2, 3, 4, 5)));
  const source = fileVectors(path, [2, 3]);
  const [second, first] = await source.of([
    { place: 1, texts: ["a", "b", "c"] },
    { place: 0, texts: ["d", "e"] },
  ]);
  t.same(
    [[...second!.data], [...first!.data]],
    [
      [3, 4, 5],
      [1, 2],
    ],
  );
  t.throws(() => fileVectors(path, [2, 2]), { message: /holds 5 vectors, and there are 4 responses to 2 questions/ });
  await t.rejects(source.of([{ place: 0, texts: ["a"] }]), { message: /question 1 has 2 vectors, not 1/ });
  writeFileSync(path, npy("<f4", [5, 1], floats(1, 2, 3, 4, 6)));
  t.not(JSON.stringify(fileVectors(path, [2, 3]).identity), JSON.stringify(source.identity), "another file's vectors");
});

// ---- a policy's states

t.test(
  "a text's vector is its own mean state, whatever is read beside it, and the centre is the first questions'",
  async (t) => {
    await using model = await Model.load(writeTinyModel(t.testdir({})), { device: "cpu", dtype: "f32", threads: 2 });
    await using policy = await model.policy();
    const texts = ["red hat", "blue cup of ada", "", "red hat", "green"];
    const all = await pooledTexts(policy, texts);
    const width = model.info.hiddenSize;
    const row = (of: Vectors, i: number) => [...of.data.subarray(i * width, (i + 1) * width)];
    t.same([all.count, all.width], [5, width]);
    for (const [i, text] of texts.entries()) t.same(row(all, i), row(await pooledTexts(policy, [text]), 0), text);
    t.ok(
      row(all, 2).every((value) => value === 0),
      "a text without a token",
    );
    t.ok(row(all, 0).some((value) => value !== 0));
    await t.rejects(pooledTexts(policy, ["red ".repeat(300)]), {
      code: "TOO_LONG",
      message: /longer than the context \(256\)/,
    });

    const questions = [
      { place: 0, texts: texts.slice(0, 2) },
      { place: 1, texts: texts.slice(2) },
    ];
    const raw = await policyVectors(policy, questions, { centred: false }).of(questions);
    t.same([...joinVectors(raw, "raw").data], [...all.data]);
    const whole = await policyVectors(policy, questions).of(questions);
    const later = await policyVectors(policy, questions).of([questions[1]!]);
    t.same([...later[0]!.data], [...whole[1]!.data], "however the work is divided");
    const left = [0, 1, 3, 4].map((i) => row(joinVectors(whole, "centred"), i));
    for (let i = 0; i < width; i++)
      t.ok(Math.abs(left.reduce((sum, vector) => sum + vector[i]!, 0)) < 1e-4, `the mean of all is taken off (${i})`);
  },
);

// ---- a server's

const embedded = (call: Call, vector: (text: string) => number[]) =>
  ((call.body as unknown as { input: string[] }).input ?? []).map((text, index) => ({
    index,
    embedding: vector(text),
  }));
const lettered = (text: string) => [text.length, text.codePointAt(0) ?? 0];

t.test("a server's vectors come in the texts' order, in batches, each text once", async (t) => {
  await using server = await fakeServer((call) => {
    if (call.before === 0 && Array.isArray(call.body.input) && call.body.input[0] === "c")
      return { status: 503, body: "busy" };
    return {
      body: JSON.stringify({ data: embedded(call, lettered).reverse(), model: "e" }),
      after: call.body.input ? 5 : 0,
    };
  });
  const notes: string[] = [];
  const backoff = { first: 0.01, longest: 0.01 };
  const client = new EmbeddingsServer({
    url: server.url,
    model: "e",
    batch: 2,
    backoff,
    note: (line) => notes.push(line),
  });
  const texts = ["a", "bb", "c", "bb", "", "dddd"];
  const { data, count, width } = await client.embed(texts);
  t.same([count, width], [6, 2]);
  t.same([...data], texts.flatMap(lettered));
  t.same(server.calls.map(({ body }) => body.input).sort(), [["a", "bb"], ["c", ""], ["c", ""], ["dddd"]].sort());
  t.same(client.usage, { calls: 4, retries: 1 });
  t.match(notes, [/HTTP 503 \(busy\); trying again/]);
  const [first, second] = await serverVectors(client).of([
    { place: 0, texts: ["bb", "a"] },
    { place: 1, texts: ["a"] },
  ]);
  t.same([[...first!.data], [...second!.data]], [["bb", "a"].flatMap(lettered), lettered("a")]);
  t.same(await client.embed([]), { data: new Float32Array(), count: 0, width: 0 });
});

t.test("what is not as many vectors of numbers is not used", async (t) => {
  const two = [
    { index: 0, embedding: [1, 2] },
    { index: 1, embedding: [3, 4] },
  ];
  for (const [why, data] of [
    [/has no list of vectors/, undefined],
    [/has 1 vectors for 2 texts/, [two[0]]],
    [/of text 0, twice or beyond the 2/, [two[0], two[0]]],
    [/of text 7, twice or beyond/, [two[0], { index: 7, embedding: [1, 2] }]],
    [/is no list of numbers/, [two[0], { index: 1, embedding: [1, null] }]],
    [/is no list of numbers/, [two[0], { index: 1, embedding: "AAAA" }]],
    [/of different lengths/, [two[0], { index: 1, embedding: [1] }]],
  ] as const) {
    await using server = await fakeServer(() => ({ body: JSON.stringify({ data }) }));
    const asked = { url: server.url, model: "e", badReplies: 1, backoff: { first: 0.01, longest: 0.01 } };
    await t.rejects(new EmbeddingsServer(asked).embed(["a", "b"]), { code: "BAD_REPLY", message: why });
    t.equal(server.calls.length, 2, "tried again, since that may pass");
  }
  await using server = await fakeServer(() => ({ status: 404, body: "no" }));
  await t.rejects(new EmbeddingsServer({ url: server.url, model: "e" }).embed(["a"]), {
    code: "SERVER_REFUSED",
    message: /Is there a \/embeddings under this URL, and a model e\?/,
  });
  t.throws(() => new EmbeddingsServer({ url: "here", model: "e" }), { code: "USAGE" });
});
