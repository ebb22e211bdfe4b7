// @ts-check
/**
 * One wide table, `clients`, becomes three: `crm_customers`, `crm_addresses` and `crm_orders`; and back.
 *
 * Read it from the bottom: the mapping itself stands last. `up` and `down` are pure: the same rows always give the
 * same rows, with no clock, no randomness and no I/O. `down(up(x), null)` gives back every column of x as it was,
 * which rests on one rule: wherever a unified value can be written in more than one way on the legacy side
 * ("030 / 123-45", "+493012345"), the text that was there is kept, and used as long as it still means the same.
 */
import { defineMapping, MappingError } from "hive-migrate";

/**
 * @typedef {import("hive-migrate").Value} Value INTEGER is a bigint, REAL a number, TEXT a string, BLOB a Uint8Array.
 * @typedef {import("hive-migrate").DataRow} DataRow
 * @typedef {import("hive-migrate").Aggregate} Aggregate
 * @typedef {{ no: string, cents: bigint, currency: string, placedOn: string }} Order
 * @typedef {{ raw: Record<string, Value>, rest: Record<string, Value> }} Kept
 */

// ---------------------------------------------------------------- single values: each with its way there and back

/**
 * The text in a column. SQLite lets any column hold anything, so a mapping has to be ready for it.
 * @param {DataRow} row
 * @param {string} column
 * @returns {string | null}
 */
function text(row, column) {
  const value = row[column] ?? null;
  if (value === null || typeof value === "string") return value;
  throw new MappingError(`${column} is ${describe(value)}: a text was expected`);
}

/** @param {Value} value */
function describe(value) {
  if (value instanceof Uint8Array) return "binary data";
  return typeof value === "string" ? JSON.stringify(value.slice(0, 60)) : String(value);
}

/** "Ada King Lovelace" and "Lovelace, Ada King" are both Ada King · Lovelace. */
const name = {
  /** @param {string | null} raw */
  parse(raw) {
    const words = (raw ?? "").trim().split(/\s+/);
    const [family = "", given = "", ...more] = (raw ?? "").split(",").map((part) => part.trim());
    if (family !== "" && given !== "" && more.length === 0) return { first: given, last: family };
    const last = words.pop() ?? "";
    if (last === "") throw new MappingError("full_name is empty: a customer needs a name");
    return { first: words.length > 0 ? words.join(" ") : null, last };
  },
  /** @param {{ first: string | null, last: string }} value */
  format: ({ first, last }) => (first === null ? last : `${first} ${last}`),
};

/** "a@x.org; b@x.org" is a list. */
const emails = {
  /** @param {string | null} raw */
  parse(raw) {
    return (raw ?? "")
      .split(/[;,\s]+/)
      .filter((part) => part !== "")
      .map((part) => part.toLowerCase());
  },
  /** @param {string[]} value */
  format: (value) => (value.length === 0 ? null : value.join("; ")),
};

/** What nobody can dial ("ask his wife") is no number: the unified column is NULL, and the text is kept. */
const phone = {
  /** @param {string | null} raw */
  parse(raw) {
    const digits = (raw ?? "").replace(/\(0\)|[\s()/.-]/g, "");
    const number = digits.replace(/^00/, "+").replace(/^0/, "+49");
    return /^\+[1-9]\d{5,14}$/.test(number) ? number : null;
  },
  /** @param {string | null} value */
  format: (value) => value,
};

const vip = {
  /** @param {string | null} raw */
  parse(raw) {
    const word = (raw ?? "").trim().toLowerCase();
    if (["y", "yes", "1"].includes(word)) return 1n;
    if (["n", "no", "0", ""].includes(word)) return 0n;
    throw new MappingError(`vip is ${describe(raw)}: neither Y nor N`);
  },
  /** @param {bigint} value */
  format: (value) => (value === 1n ? "Y" : "N"),
};

const END_OF_9999 = 253_402_300_800_000;

/** Unix seconds; a later program wrote milliseconds. */
const created = {
  /** @param {Value} raw */
  parse(raw) {
    if (raw === null) return null;
    const seconds = typeof raw === "bigint" || typeof raw === "number" ? Number(raw) : Number.NaN;
    const ms = Math.abs(seconds) > 1e11 ? seconds : seconds * 1000;
    if (!(ms >= 0 && ms < END_OF_9999)) throw new MappingError(`created is ${describe(raw)}: no Unix time`);
    return new Date(Math.round(ms)).toISOString();
  },
  /** @param {string | null} value */
  format(value) {
    if (value === null) return null;
    // Only with its zone: without one, Date.parse takes the machine's, and another machine would give another row.
    if (!/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/.test(value) || Number.isNaN(Date.parse(value))) {
      throw new MappingError(`created_at is ${describe(value)}: a time like 2019-04-03T10:20:30.000Z was expected`);
    }
    return BigInt(Math.floor(Date.parse(value) / 1000));
  },
};

/** "1.234,50 €" is 123450 cents. Never through a floating-point number. */
const money = {
  /** @param {unknown} raw */
  parse(raw) {
    const match = /^(-?)(\d{1,3}(?:\.\d{3})+|\d{1,12})(?:,(\d\d?))? ?(€|EUR|CHF|USD)$/.exec(String(raw).trim());
    if (!match) return null;
    const [, sign, whole = "", fraction = "", currency = ""] = match;
    const cents = BigInt(whole.replaceAll(".", "") + fraction.padEnd(2, "0"));
    if (cents > 99_999_999_999_999n) return null;
    return { cents: sign === "-" ? -cents : cents, currency: currency === "€" ? "EUR" : currency };
  },
  /** @param {bigint} cents @param {string} currency */
  format(cents, currency) {
    const digits = String(cents < 0n ? -cents : cents).padStart(3, "0");
    const amount = `${cents < 0n ? "-" : ""}${digits.slice(0, -2)},${digits.slice(-2)}`;
    return `${amount} ${currency === "EUR" ? "€" : currency}`;
  },
};

/** "03/04/2019" is the third of April. */
const day = {
  /** @param {unknown} raw */
  parse(raw) {
    const [, date, month, year] = /^(\d\d?)\/(\d\d?)\/(\d{4})$/.exec(String(raw)) ?? [];
    if (!date || !month || !year) return null;
    const iso = `${year}-${month.padStart(2, "0")}-${date.padStart(2, "0")}`;
    // 31/02/2019 is no day: Date would make it the third of March.
    const real = new Date(`${iso}T00:00:00Z`);
    return !Number.isNaN(real.getTime()) && real.toISOString().startsWith(iso) ? iso : null;
  },
  /** @param {string} iso */
  format: (iso) => iso.split("-").reverse().join("/"),
};

// ------------------------------------------------------------------------------------- the orders: a list in a text

/**
 * The members of each order as they stand in the text.
 * @param {string | null} raw
 * @returns {Record<string, unknown>[]}
 */
function rawOrders(raw) {
  if (raw === null || raw.trim() === "") return [];
  /** @type {unknown} */
  let list;
  try {
    list = JSON.parse(raw);
  } catch {
    throw new MappingError(`orders is no JSON: ${describe(raw)}`);
  }
  if (!Array.isArray(list) || !list.every((one) => typeof one === "object" && one !== null && !Array.isArray(one))) {
    throw new MappingError(`orders is no list of orders: ${describe(raw)}`);
  }
  return list;
}

/**
 * Refuses what it has no column for: an aggregate in quarantine can be mended, a value that was dropped is gone.
 * @param {Record<string, unknown>} raw
 * @returns {Order}
 */
function parseOrder(raw) {
  const no = typeof raw.no === "number" && Number.isSafeInteger(raw.no) ? String(raw.no) : raw.no;
  if (typeof no !== "string" || no === "") {
    throw new MappingError(`an order has the number ${JSON.stringify(raw.no) ?? "(none)"}: a text was expected`);
  }
  const unknown = Object.keys(raw).find((member) => !["no", "total", "placed"].includes(member));
  if (unknown !== undefined) {
    throw new MappingError(`order ${no} has a member "${unknown}", and crm_orders has no column for it`);
  }
  const total = money.parse(raw.total);
  if (!total) throw new MappingError(`the total of order ${no} is ${JSON.stringify(raw.total)}: no amount of money`);
  const placedOn = day.parse(raw.placed);
  if (!placedOn) throw new MappingError(`order ${no} was placed on ${JSON.stringify(raw.placed)}: no day`);
  return { no, ...total, placedOn };
}

const orders = {
  /** @param {string | null} raw */
  parse(raw) {
    const list = rawOrders(raw).map(parseOrder);
    // The order number is part of the key of crm_orders: two alike cannot both be there.
    const twice = list.find((order, i) => list.findIndex((other) => other.no === order.no) < i);
    if (twice) throw new MappingError(`two orders have the number ${twice.no}`);
    return list.sort(byDay);
  },
  /** @param {Order[]} value */
  format: (value) => formatOrders(value, []),
};

/** @param {Order} a @param {Order} b */
function byDay(a, b) {
  const [left, right] = a.placedOn === b.placedOn ? [a.no, b.no] : [a.placedOn, b.placedOn];
  return left < right ? -1 : left > right ? 1 : 0;
}

/**
 * The orders as a text: those that are in `before` and have not changed stay as they stand there, in their place.
 * @param {Order[]} list
 * @param {Record<string, unknown>[]} before
 */
function formatOrders(list, before) {
  if (list.length === 0) return null;
  const left = new Map(list.map((order) => [order.no, order]));
  /** @type {Record<string, unknown>[]} */
  const written = [];
  for (const raw of before) {
    const old = parseOrder(raw);
    const order = left.get(old.no);
    left.delete(old.no);
    if (order) written.push(same(old, order) ? raw : formatOrder(order));
  }
  written.push(...[...left.values()].sort(byDay).map(formatOrder));
  return JSON.stringify(written);
}

/** @param {Order} order */
function formatOrder({ no, cents, currency, placedOn }) {
  return { no, total: money.format(cents, currency), placed: day.format(placedOn) };
}

// --------------------------------------------------------------------------------------- keeping what was there

/** @param {unknown} a @param {unknown} b */
function same(a, b) {
  return a === b || stable(a) === stable(b);
}

/** @param {unknown} value */
function stable(value) {
  return JSON.stringify(value, (_, item) => (typeof item === "bigint" ? `${item}n` : item));
}

/**
 * The legacy text for a unified value: what stands there now, or what stood there when it was mapped, if that still
 * means the same; else the text that we would write.
 * @template {Value} Raw
 * @template Meaning
 * @param {{ parse(raw: Raw): Meaning, format(value: Meaning): Raw }} kind
 * @param {Meaning} value
 * @param {readonly Value[]} texts
 * @returns {Value}
 */
function writtenAs(kind, value, texts) {
  for (const raw of texts) {
    try {
      if (same(kind.parse(/** @type {Raw} */ (raw)), value)) return raw;
    } catch (error) {
      // What cannot be read does not mean the same.
      if (!(error instanceof MappingError)) throw error;
    }
  }
  return kind.format(value);
}

/** Values as JSON and back; JSON itself has neither 64-bit integers nor binary data. */
const json = {
  /** @param {Kept} kept */
  write(kept) {
    /** @param {Record<string, Value>} row */
    const tagged = (row) => Object.fromEntries(Object.entries(row).map(([column, value]) => [column, tag(value)]));
    if (Object.keys(kept.raw).length + Object.keys(kept.rest).length === 0) return null;
    return JSON.stringify({ raw: tagged(kept.raw), rest: tagged(kept.rest) });
  },
  /**
   * Lenient: the column is the mapping's own, but any program may have written it. Without notes, texts that say the
   * same take the place of those that were there.
   * @param {Value | undefined} column
   * @returns {Kept}
   */
  read(column) {
    /** @param {unknown} row */
    const untagged = (row) =>
      Object.fromEntries(
        Object.entries(row ?? {}).flatMap(([name, value]) => {
          const known = untag(value);
          return known === undefined ? [] : [[name, known]];
        }),
      );
    try {
      const parsed = typeof column === "string" ? JSON.parse(column) : null;
      return { raw: untagged(parsed?.raw), rest: untagged(parsed?.rest) };
    } catch {
      return { raw: {}, rest: {} };
    }
  },
};

/** @param {Value} value */
function tag(value) {
  if (typeof value === "bigint") return { integer: String(value) };
  if (typeof value === "number") return { real: String(value) };
  return value instanceof Uint8Array ? { blob: Buffer.from(value).toString("hex") } : value;
}

/**
 * @param {unknown} value
 * @returns {Value | undefined}
 */
function untag(value) {
  if (value === null || typeof value === "string") return value;
  if (typeof value !== "object") return undefined;
  if ("integer" in value) return BigInt(String(value.integer));
  if ("real" in value) return Number(value.real);
  return "blob" in value ? Buffer.from(String(value.blob), "hex") : undefined;
}

// ------------------------------------------------------------------------------------------------- the mapping

/** The columns that the mapping reads by name. Any other column of `clients` is kept as it is: see `rest`. */
const COLUMNS = /** @type {const} */ ([
  "id",
  "full_name",
  "emails",
  "phone",
  "bill_street",
  "bill_zip",
  "bill_city",
  "ship_street",
  "ship_zip",
  "ship_city",
  "orders",
  "remarks",
  "vip",
  "created",
]);

/** @type {ReadonlySet<string>} */
const KNOWN = new Set(COLUMNS);

/** The legacy columns of an address, by its kind. An address without any of them is no row. */
const ADDRESSES = /** @type {const} */ ([
  { kind: "billing", prefix: "bill_" },
  { kind: "shipping", prefix: "ship_" },
]);

/**
 * @param {Aggregate} legacy
 * @returns {Aggregate}
 */
function up(legacy) {
  const client = legacy.clients?.[0] ?? {};
  const id = client.id ?? null;

  const person = name.parse(text(client, "full_name"));
  const addresses = emails.parse(text(client, "emails"));
  const number = phone.parse(text(client, "phone"));
  const important = vip.parse(text(client, "vip"));
  const since = created.parse(client.created ?? null);
  const list = orders.parse(text(client, "orders"));

  // Only what `down` would write otherwise has to be kept.
  /** @type {Kept} */
  const kept = { raw: {}, rest: {} };
  const asWritten = {
    full_name: name.format(person),
    emails: emails.format(addresses),
    phone: phone.format(number),
    vip: vip.format(important),
    created: created.format(since),
    orders: orders.format(list),
  };
  for (const [column, canonical] of Object.entries(asWritten)) {
    const raw = client[column] ?? null;
    if (raw !== canonical) kept.raw[column] = raw;
  }
  for (const [column, value] of Object.entries(client)) if (!KNOWN.has(column)) kept.rest[column] = value;

  return {
    crm_customers: [
      {
        id,
        first_name: person.first,
        last_name: person.last,
        emails: JSON.stringify(addresses),
        phone: number,
        vip: important,
        remarks: text(client, "remarks"),
        created_at: since,
        legacy: json.write(kept),
      },
    ],
    crm_addresses: ADDRESSES.flatMap(({ kind, prefix }) => {
      const street = text(client, `${prefix}street`);
      const zip = text(client, `${prefix}zip`);
      const city = text(client, `${prefix}city`);
      return (street ?? zip ?? city) === null ? [] : [{ customer_id: id, kind, street, zip, city }];
    }),
    crm_orders: list.map(({ no, cents, currency, placedOn }) => ({
      customer_id: id,
      order_no: no,
      total_cents: cents,
      currency,
      placed_on: placedOn,
    })),
  };
}

/**
 * @param {Aggregate} unified
 * @param {Aggregate | null} current what the legacy side holds now
 * @returns {Aggregate}
 */
function down(unified, current) {
  const customer = unified.crm_customers?.[0] ?? {};
  const kept = json.read(customer.legacy);
  const now = current?.clients?.[0];
  /** @param {string} column */
  const standing = (column) => [
    ...(now === undefined ? [] : [now[column] ?? null]),
    ...(Object.hasOwn(kept.raw, column) ? [kept.raw[column] ?? null] : []),
  ];
  /** @param {string} column */
  const texts = (column) => standing(column).filter((value) => value === null || typeof value === "string");

  const list = (unified.crm_orders ?? []).map(readOrder).sort(byDay);
  const person = { first: text(customer, "first_name"), last: text(customer, "last_name") ?? "" };
  /** @type {Record<string, Value>} */
  const client = {
    id: customer.id ?? null,
    full_name: writtenAs(name, person, texts("full_name")),
    emails: writtenAs(emails, emailList(customer), texts("emails")),
    phone: writtenAs(phone, text(customer, "phone"), texts("phone")),
    vip: writtenAs(vip, customer.vip === 1n ? 1n : 0n, texts("vip")),
    created: writtenAs(created, text(customer, "created_at"), standing("created")),
    orders: writtenAs({ ...orders, format: (value) => formatOrders(value, before()) }, list, texts("orders")),
    remarks: text(customer, "remarks"),
  };
  for (const { kind, prefix } of ADDRESSES) {
    const address = (unified.crm_addresses ?? []).find((one) => one.kind === kind) ?? {};
    for (const part of ["street", "zip", "city"]) client[prefix + part] = text(address, part);
  }
  // A row that is there keeps the columns that the mapping does not know: they are not in the result.
  if (now === undefined) Object.assign(client, kept.rest);
  return { clients: [client] };

  /** The orders as they stood, for those that have not changed. */
  function before() {
    for (const raw of texts("orders")) {
      try {
        const before = rawOrders(raw);
        before.map(parseOrder);
        return before;
      } catch (error) {
        if (!(error instanceof MappingError)) throw error;
      }
    }
    return [];
  }
}

/**
 * @param {DataRow} row
 * @returns {Order}
 */
function readOrder(row) {
  const { order_no: no, total_cents: cents, currency, placed_on: placedOn } = row;
  if (typeof no !== "string" || typeof cents !== "bigint" || typeof currency !== "string") {
    throw new MappingError(`order ${describe(no ?? null)} is not what crm_orders is meant to hold`);
  }
  if (typeof placedOn !== "string" || day.parse(day.format(placedOn)) !== placedOn) {
    throw new MappingError(
      `order ${no} was placed on ${describe(placedOn ?? null)}: a day like 2019-04-03 was expected`,
    );
  }
  return { no, cents, currency, placedOn };
}

/** @param {DataRow} customer */
function emailList(customer) {
  const raw = text(customer, "emails") ?? "[]";
  /** @type {unknown} */
  let list;
  try {
    list = JSON.parse(raw);
  } catch {
    // Refused below.
  }
  if (!Array.isArray(list) || !list.every((one) => typeof one === "string")) {
    throw new MappingError(`emails is ${describe(raw)}: a JSON list of texts was expected`);
  }
  return list;
}

export default defineMapping({
  name: "customers",
  migrations: "./migrations",
  // Who is moved, step by step. A shop with one program has one agent.
  agents: [{ name: "shop" }],
  eventTypes: [],
  aggregates: [
    {
      name: "customers",
      legacy: { root: { table: "clients", key: "id", columns: COLUMNS }, related: [] },
      unified: {
        root: {
          table: "crm_customers",
          key: "id",
          columns: {
            id: "integer",
            first_name: "text",
            last_name: "text",
            emails: "json",
            phone: "text",
            vip: "integer",
            remarks: "text",
            created_at: "time",
            legacy: "json",
          },
          // Where the mapping keeps its notes: they are no data that could get lost on the way down.
          notes: { legacy: ["raw", "rest"] },
        },
        related: [
          {
            table: "crm_addresses",
            foreignKey: "customer_id",
            // Besides the customer: what tells the rows of one customer apart.
            key: ["kind"],
            columns: { customer_id: "integer", kind: "text", street: "text", zip: "text", city: "text" },
          },
          {
            table: "crm_orders",
            foreignKey: "customer_id",
            key: ["order_no"],
            columns: {
              customer_id: "integer",
              order_no: "text",
              total_cents: "integer",
              currency: "text",
              placed_on: "text",
            },
          },
        ],
      },
      agent: () => "shop",
      unifiedAgent: () => "shop",
      owns: () => true,
      up,
      down,
    },
  ],
});
