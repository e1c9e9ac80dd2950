// The exact zip, against bundles made here by the same rules and then damaged.

import { crc32 as reference } from "node:zlib";
import { describe, expect, it } from "vitest";
import { Damaged } from "../src/errors";
import { crc32, readDirectory, readMember, type Source } from "../src/zip";

const MEMBERS = { "bundle.json": "{}", "targets/litert/int8.tflite": "abcdefghij", empty: "" };

/** As src/catflap/artifacts/bundle_zip.py writes it. */
function encode(members: Record<string, string>): Buffer {
  const parts: Buffer[] = [];
  const central: Buffer[] = [];
  let offset = 0;
  for (const [name, text] of Object.entries(members)) {
    const common = Buffer.alloc(26);
    common.writeUInt16LE(20, 0);
    common.writeUInt16LE(33, 8);
    common.writeUInt32LE(reference(text), 10);
    common.writeUInt32LE(text.length, 14);
    common.writeUInt32LE(text.length, 18);
    common.writeUInt16LE(name.length, 22);
    const rest = Buffer.alloc(14);
    rest.writeUInt32LE(offset, 10);
    parts.push(Buffer.from("PK\x03\x04"), common, Buffer.from(name), Buffer.from(text));
    central.push(Buffer.from("PK\x01\x02\x14\x00"), common, rest, Buffer.from(name));
    offset += 30 + name.length + text.length;
  }
  const directory = Buffer.concat(central);
  const end = Buffer.alloc(22);
  end.write("PK\x05\x06", "latin1");
  end.writeUInt16LE(Object.keys(members).length, 8);
  end.writeUInt16LE(Object.keys(members).length, 10);
  end.writeUInt32LE(directory.length, 12);
  end.writeUInt32LE(offset, 16);
  return Buffer.concat([...parts, directory, end]);
}

function source(bytes: Uint8Array): Source {
  return { size: bytes.length, read: async (start, end) => bytes.slice(start, end) };
}

async function readAll(bytes: Uint8Array): Promise<Record<string, string>> {
  const members = await readDirectory(source(bytes));
  const texts: Record<string, string> = {};
  for (const member of members.values()) {
    texts[member.name] = new TextDecoder().decode(await readMember(source(bytes), member));
  }
  return texts;
}

describe("the exact zip", () => {
  it("gives back its members in their order", async () => {
    const got = await readAll(encode(MEMBERS));
    expect(Object.entries(got)).toEqual(Object.entries(MEMBERS));
  });

  it("refuses a flipped bit anywhere", async () => {
    const good = encode(MEMBERS);
    for (let place = 0; place < good.length; place++) {
      for (const bit of [1, 128]) {
        const bad = Uint8Array.from(good);
        bad[place] ^= bit;
        await expect(readAll(bad), `byte ${place}`).rejects.toThrow(Damaged);
      }
    }
  });

  it("refuses a cut anywhere and bytes after the end", async () => {
    const good = encode(MEMBERS);
    for (let length = 0; length < good.length; length++) {
      await expect(readAll(good.subarray(0, length)), `length ${length}`).rejects.toThrow(Damaged);
    }
    await expect(readAll(Buffer.concat([good, Buffer.from([0])]))).rejects.toThrow(Damaged);
    await expect(readAll(Buffer.concat([Buffer.from([0]), good]))).rejects.toThrow(Damaged);
  });

  it.each(["../evil", "/etc/passwd", "a//b", "a/b/c/d/e", "C:\\x", ".hidden", "a b", "é", "x".repeat(101), ""])(
    "refuses the member name %j",
    async (name) => {
      await expect(readAll(encode({ [name]: "1" }))).rejects.toThrow(Damaged);
    },
  );
});

describe("crc32", () => {
  it.each([0, 1, 2, 3, 4, 5, 7, 8, 1001])("agrees with zlib on %i bytes", (length) => {
    const data = Uint8Array.from({ length }, (_, place) => (place * 151 + 17) & 255);
    expect(crc32(data)).toBe(reference(data));
  });
});
