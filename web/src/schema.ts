// Check a JSON value against the subset of JSON Schema (2020-12) that src/catflap/artifacts/schema.py uses.

export interface Schema {
  type?: string;
  enum?: unknown[];
  pattern?: string;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  items?: Schema;
  minItems?: number;
  maxItems?: number;
  uniqueItems?: boolean;
  required?: string[];
  properties?: Record<string, Schema>;
  additionalProperties?: boolean | Schema;
  minProperties?: number;
}

/** The first thing that is wrong with a value, with its place; undefined when it conforms. */
export function fault(value: unknown, schema: Schema, place = "$"): string | undefined {
  if (schema.type && !isOf(value, schema.type)) return `${place} is not of the type ${schema.type}`;
  if (schema.enum && !schema.enum.includes(value)) return `${place} is none of ${schema.enum.join(", ")}`;
  if (typeof value === "string" && schema.pattern && !new RegExp(schema.pattern, "u").test(value)) {
    return `${place} does not match ${schema.pattern}`;
  }
  if (typeof value === "number") return numberFault(value, schema, place);
  if (Array.isArray(value)) return arrayFault(value, schema, place);
  if (isOf(value, "object")) return objectFault(value as Record<string, unknown>, schema, place);
  return undefined;
}

function isOf(value: unknown, type: string): boolean {
  switch (type) {
    case "object":
      return typeof value === "object" && value !== null && !Array.isArray(value);
    case "array":
      return Array.isArray(value);
    case "integer":
      return Number.isInteger(value);
    case "null":
      return value === null;
    default:
      return typeof value === type;
  }
}

function numberFault(value: number, schema: Schema, place: string): string | undefined {
  const { minimum = -Infinity, maximum = Infinity, exclusiveMinimum = -Infinity } = schema;
  const inside = value >= minimum && value <= maximum && value > exclusiveMinimum && Number.isFinite(value);
  return inside ? undefined : `${place} is out of range`;
}

function arrayFault(value: unknown[], schema: Schema, place: string): string | undefined {
  if (value.length < (schema.minItems ?? 0) || value.length > (schema.maxItems ?? value.length)) {
    return `${place} has ${value.length} items`;
  }
  if (schema.uniqueItems && new Set(value.map((item) => JSON.stringify(item))).size < value.length) {
    return `${place} has an item twice`;
  }
  return first(value, (item, index) => fault(item, schema.items ?? {}, `${place}[${index}]`));
}

function objectFault(value: Record<string, unknown>, schema: Schema, place: string): string | undefined {
  const missing = schema.required?.find((name) => !Object.hasOwn(value, name));
  if (missing) return `${place}.${missing} is missing`;
  const entries = Object.entries(value);
  if (entries.length < (schema.minProperties ?? 0)) return `${place} is empty`;
  return first(entries, ([name, item]) => {
    const known = schema.properties && Object.hasOwn(schema.properties, name) && schema.properties[name];
    if (known) return fault(item, known, `${place}.${name}`);
    if (schema.additionalProperties === false) return `${place}.${name} is unknown`;
    if (typeof schema.additionalProperties !== "object") return undefined;
    return fault(item, schema.additionalProperties, `${place}.${name}`);
  });
}

function first<T>(items: T[], check: (item: T, index: number) => string | undefined): string | undefined {
  for (let index = 0; index < items.length; index++) {
    const found = check(items[index], index);
    if (found) return found;
  }
  return undefined;
}
