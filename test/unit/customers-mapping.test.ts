import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { loadPlatformMapping } from "../../src/sync/load-mapping.ts";
import { type Aggregate, type DataRow, sameValue, type Value } from "../../src/sync/mapping.ts";

const path = fileURLToPath(new URL("../../examples/customers/mapping.js", import.meta.url));
const platform = await loadPlatformMapping({ mapping: path, baseDirectory: "/" }, {});
const [mapping] = platform.aggregates;
if (!mapping) throw new Error("the example has no aggregate");

const CLIENT: DataRow = {
  id: 7n,
  full_name: "Grace Brewster Hopper",
  emails: "Grace@example.org; office@example.org",
  phone: "030 / 765 43-21",
  bill_street: "Kantstr. 17",
  bill_zip: "10623",
  bill_city: "Berlin",
  ship_street: null,
  ship_zip: null,
  ship_city: null,
  orders:
    '[ {"no": "A-2", "total": "1.299,5 €", "placed": "2/5/2019"}, {"no": 17, "total": "8 CHF", "placed": "01/05/2019"} ]',
  remarks: null,
  vip: "yes",
  created: 1262304000n,
  loyalty_no: 1001n,
};

function up(columns: DataRow = {}): Aggregate {
  return mapping?.up({ clients: [{ ...CLIENT, ...columns }] }) ?? {};
}

function down(unified: Aggregate, current: DataRow | null = null): DataRow {
  return mapping?.down(unified, current && { clients: [current] }).clients?.[0] ?? {};
}

/** The unified rows with columns of those that `which` picks changed. */
function changed(unified: Aggregate, table: string, columns: DataRow, which = (_: DataRow) => true): Aggregate {
  return { ...unified, [table]: (unified[table] ?? []).map((row) => (which(row) ? { ...row, ...columns } : row)) };
}

function expectSame(back: DataRow, client: DataRow): void {
  const differing = Object.keys({ ...back, ...client }).filter((column) => !sameValue(back[column], client[column]));
  expect(differing.map((column) => [column, client[column], back[column]])).toEqual([]);
}

describe("up", () => {
  test("splits one wide row into three tables", () => {
    const { legacy, ...customer } = up().crm_customers?.[0] ?? {};
    expect(customer).toEqual({
      id: 7n,
      first_name: "Grace Brewster",
      last_name: "Hopper",
      emails: '["grace@example.org","office@example.org"]',
      phone: "+49307654321",
      vip: 1n,
      remarks: null,
      created_at: "2010-01-01T00:00:00.000Z",
    });
    expect(JSON.parse(String(legacy))).toEqual({
      raw: { emails: CLIENT.emails, phone: CLIENT.phone, vip: "yes", orders: CLIENT.orders },
      rest: { loyalty_no: { integer: "1001" } },
    });
    expect(up().crm_addresses).toEqual([
      { customer_id: 7n, kind: "billing", street: "Kantstr. 17", zip: "10623", city: "Berlin" },
    ]);
    expect(up().crm_orders).toEqual([
      { customer_id: 7n, order_no: "17", total_cents: 800n, currency: "CHF", placed_on: "2019-05-01" },
      { customer_id: 7n, order_no: "A-2", total_cents: 129950n, currency: "EUR", placed_on: "2019-05-02" },
    ]);
  });

  test.each([
    [{ full_name: " " }, "full_name is empty: a customer needs a name"],
    [{ full_name: Buffer.from("x") }, "full_name is binary data: a text was expected"],
    [{ vip: "maybe" }, 'vip is "maybe": neither Y nor N'],
    [{ created: "soon" }, 'created is "soon": no Unix time'],
    [{ created: -1n }, "created is -1: no Unix time"],
    [{ orders: "see folder" }, 'orders is no JSON: "see folder"'],
    [{ orders: '{"no": 1}' }, 'orders is no list of orders: "{\\"no\\": 1}"'],
    [{ orders: '[{"total": "1 €", "placed": "01/01/2019"}]' }, "an order has the number (none): a text was expected"],
    [
      { orders: '[{"no": 12345678901234567890, "total": "1 €", "placed": "01/01/2019"}]' },
      "an order has the number 12345678901234567000: a text was expected",
    ],
    [
      { orders: '[{"no": "A", "total": "1,005 €", "placed": "01/01/2019"}]' },
      'the total of order A is "1,005 €": no amount of money',
    ],
    [{ orders: '[{"no": "A", "total": "1 €", "placed": "31/02/2019"}]' }, 'order A was placed on "31/02/2019": no day'],
    [
      { orders: '[{"no": "A", "total": "1 €", "placed": "01/01/2019", "coupon": "X"}]' },
      'order A has a member "coupon", and crm_orders has no column for it',
    ],
    [
      {
        orders:
          '[{"no": "7", "total": "1 €", "placed": "01/01/2019"}, {"no": 7, "total": "2 €", "placed": "02/01/2019"}]',
      },
      "two orders have the number 7",
    ],
  ])("refuses %o: %s", (columns: DataRow, message) => {
    expect(() => up(columns)).toThrow(expect.objectContaining({ name: "MappingError", message }));
  });
});

describe("down", () => {
  test("a changed address changes its columns only", () => {
    const unified = changed(up(), "crm_addresses", { street: "Neue Str. 5" });
    expectSame(down(unified), { ...CLIENT, bill_street: "Neue Str. 5" });
    expectSame({ ...CLIENT, ...down(unified, CLIENT) }, { ...CLIENT, bill_street: "Neue Str. 5" });
  });

  test("a new order leaves the others as they are written", () => {
    const unified = up();
    const order = { customer_id: 7n, order_no: "A-3", total_cents: -5n, currency: "USD", placed_on: "2020-12-31" };
    const back = down({ ...unified, crm_orders: [...(unified.crm_orders ?? []), order] });
    expect(JSON.parse(String(back.orders))).toEqual([
      { no: "A-2", total: "1.299,5 €", placed: "2/5/2019" },
      { no: 17, total: "8 CHF", placed: "01/05/2019" },
      { no: "A-3", total: "-0,05 USD", placed: "31/12/2020" },
    ]);
    expectSame({ ...back, orders: null }, { ...CLIENT, orders: null });
  });

  test("a changed order is written anew, a deleted one is gone", () => {
    const unified = changed(up(), "crm_orders", { total_cents: 1n }, (row) => row.order_no === "17");
    const left = (unified.crm_orders ?? []).filter((row) => row.order_no === "17");
    expect(down({ ...unified, crm_orders: left }).orders).toBe(
      '[{"no":"17","total":"0,01 CHF","placed":"01/05/2019"}]',
    );
    expect(down({ ...unified, crm_orders: [] }).orders).toBe(null);
  });

  test("what the legacy row says now counts more than what was noted", () => {
    const back = down(up(), { ...CLIENT, phone: "0049-30-7654321", loyalty_no: 5n });
    expect(back.phone).toBe("0049-30-7654321");
    // Not given: the row keeps what it has.
    expect(back).not.toHaveProperty("loyalty_no");
  });

  test("a customer that was made on the unified side", () => {
    const unified = {
      crm_customers: [
        {
          id: 99n,
          first_name: null,
          last_name: "Plato",
          emails: "[]",
          phone: "+302105550101",
          vip: 0n,
          remarks: null,
          created_at: "2020-01-01T00:00:00.000Z",
          legacy: null,
        },
      ],
      crm_addresses: [],
      crm_orders: [],
    };
    const back = down(unified);
    expect(back).toMatchObject({ id: 99n, full_name: "Plato", emails: null, vip: "N", created: 1577836800n });
    expect(mapping?.up({ clients: [back] })).toEqual(unified);
  });

  test.each([
    ["crm_customers", { emails: "x@y" }, 'emails is "x@y": a JSON list of texts was expected'],
    ["crm_customers", { created_at: "2020-01-01 10:00:00" }, /^created_at is "2020-01-01 10:00:00": a time like/],
    ["crm_orders", { placed_on: "01.02.2020" }, /was placed on "01.02.2020": a day like/],
    ["crm_orders", { total_cents: 1.5 }, /is not what crm_orders is meant to hold$/],
  ])("refuses what no program should have written in %s: %o", (table, columns: DataRow, message) => {
    expect(() => down(changed(up(), table, columns))).toThrow(
      expect.objectContaining({
        name: "MappingError",
        message: typeof message === "string" ? message : expect.stringMatching(message),
      }),
    );
  });

  test.each(["{", "7", '{"raw": 1}', '{"raw": {"phone": {"integer": "x"}}}'])(
    "notes that somebody has spoilt (%s) cost formats, not values",
    (legacy) => {
      const back = down(changed(up(), "crm_customers", { legacy }));
      expect(back).toMatchObject({ phone: "+49307654321", vip: "Y", full_name: "Grace Brewster Hopper" });
    },
  );
});

function byNumber(orders: readonly DataRow[] = []): DataRow[] {
  return orders.toSorted((a, b) => (String(a.order_no) < String(b.order_no) ? -1 : 1));
}

describe("generated rows", () => {
  const word = fc.string({ unit: "grapheme", maxLength: 8 });
  const dirt: fc.Arbitrary<Value> = fc.oneof(
    fc.constant(null),
    word,
    fc.bigInt(-(2n ** 63n), 2n ** 63n - 1n),
    fc.double({ noNaN: true }),
    fc.uint8Array({ maxLength: 4 }),
  );
  const address = fc.option(word, { nil: null });
  const orderMembers = fc.record(
    {
      no: fc.oneof(word, fc.nat(30), fc.constant("A-1")),
      total: fc.oneof(
        fc.tuple(fc.nat(99_999), fc.nat(99)).map(([euros, cents]) => `${euros},${String(cents).padStart(2, "0")} €`),
        fc.constantFrom("12,5€", "-1.000.000 EUR", "7 CHF", "0,01 USD", "-0 €", "00012 €", " 3 € "),
        word,
      ),
      placed: fc.oneof(
        fc
          .date({ min: new Date("1990-01-01"), max: new Date("2030-01-01"), noInvalidDate: true })
          .map((date) => date.toISOString().slice(0, 10).split("-").reverse().join("/")),
        fc.constantFrom("1/2/2019", "29/02/2020", "31/04/2020"),
      ),
      coupon: word,
    },
    { requiredKeys: [] },
  );
  const orders = fc.oneof(
    {
      weight: 4,
      arbitrary: fc
        .tuple(fc.array(orderMembers, { maxLength: 4 }), fc.nat(2))
        .map(([list, space]) => JSON.stringify(list, null, space)),
    },
    { weight: 1, arbitrary: fc.oneof(fc.constantFrom(null, "", "[]", " ", "null"), dirt) },
  );
  const mostly = (usual: fc.Arbitrary<Value>) =>
    fc.oneof({ weight: 9, arbitrary: usual }, { weight: 1, arbitrary: dirt });
  const clients = fc.record({
    id: fc.bigInt(1n, 10_000n),
    full_name: mostly(
      fc.oneof(
        word,
        fc.tuple(word, fc.constantFrom(" ", "  ", ", ", ","), word).map((parts) => parts.join("")),
      ),
    ),
    emails: mostly(fc.oneof(fc.constantFrom(null, "", "A@b.c", "a@b.c; d@e.f", "a@b.c , d@e.f;"), word)),
    phone: mostly(fc.constantFrom(null, "", "030 123456", "+49 (0)30/123-456", "0049301234", "ask", "+1")),
    bill_street: address,
    bill_zip: address,
    bill_city: address,
    ship_street: address,
    ship_zip: address,
    ship_city: address,
    orders,
    remarks: mostly(address),
    vip: mostly(fc.constantFrom("Y", "N", "y", "yes", "", " n ", null)),
    created: mostly(
      fc.oneof(
        fc.bigInt(0n, 2_000_000_000n),
        fc.bigInt(1_000_000_000_000n, 2_000_000_000_000n),
        fc.double({ min: 0, max: 2e9, noNaN: true }),
      ),
    ),
    loyalty_no: dirt,
  });

  test("come back exactly as they were, or are refused with a MappingError", () => {
    let mapped = 0;
    fc.assert(
      fc.property(clients, (client) => {
        let unified: Aggregate;
        try {
          unified = up(client);
        } catch (error) {
          expect(error).toMatchObject({ name: "MappingError" });
          return;
        }
        mapped += 1;
        const back = down(unified);
        expectSame(back, client);
        // With the legacy row at hand, nothing has to change in it.
        expectSame({ ...client, ...down(unified, client) }, client);
        expect(up(back)).toEqual(unified);
      }),
      { numRuns: 5_000 },
    );
    expect(mapped).toBeGreaterThan(500);
  });

  test("a change on the unified side survives going down and up again", () => {
    fc.assert(
      fc.property(clients, fc.bigInt(-1_000_000n, 1_000_000n), word, (client, cents, street) => {
        let unified: Aggregate;
        try {
          unified = up(client);
        } catch {
          return;
        }
        const shipping = { customer_id: client.id, kind: "shipping", street, zip: "1", city: null };
        const order = {
          customer_id: client.id,
          order_no: "new",
          total_cents: cents,
          currency: "USD",
          placed_on: "1999-12-31",
        };
        const edited: Aggregate = {
          ...unified,
          crm_addresses: [...(unified.crm_addresses ?? []).filter((row) => row.kind !== "shipping"), shipping],
          crm_orders: [order, ...(unified.crm_orders ?? []).filter((row) => row.order_no !== "new")],
        };
        for (const current of [null, client]) {
          const again = up({ ...client, ...down(edited, current) });
          expect(again.crm_addresses).toEqual(edited.crm_addresses);
          expect(byNumber(again.crm_orders)).toEqual(byNumber(edited.crm_orders));
          expect({ ...again.crm_customers?.[0], legacy: null }).toEqual({
            ...unified.crm_customers?.[0],
            legacy: null,
          });
        }
      }),
      { numRuns: 3_000 },
    );
  });
});
