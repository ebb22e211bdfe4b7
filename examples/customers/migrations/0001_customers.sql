-- The unified tables of the shop: what was one wide table, `clients`.

-- migrate:up

CREATE TABLE crm_customers (
  id INTEGER PRIMARY KEY NOT NULL,
  first_name TEXT,
  last_name TEXT NOT NULL,
  -- A JSON list, the main address first.
  emails TEXT NOT NULL,
  -- +49301234567; NULL where there is none, or none that can be dialled.
  phone TEXT,
  vip INTEGER NOT NULL CHECK (vip IN (0, 1)),
  remarks TEXT,
  -- 2019-04-03T10:20:30.000Z
  created_at TEXT,
  -- What the mapping keeps to be able to go back: the texts that the columns above do not give back.
  legacy TEXT
);

CREATE TABLE crm_addresses (
  customer_id INTEGER NOT NULL REFERENCES crm_customers (id),
  kind TEXT NOT NULL CHECK (kind IN ('billing', 'shipping')),
  street TEXT,
  zip TEXT,
  city TEXT,
  PRIMARY KEY (customer_id, kind),
  CHECK (coalesce(street, zip, city) IS NOT NULL)
);

CREATE TABLE crm_orders (
  customer_id INTEGER NOT NULL REFERENCES crm_customers (id),
  order_no TEXT NOT NULL,
  total_cents INTEGER NOT NULL,
  currency TEXT NOT NULL CHECK (currency IN ('EUR', 'CHF', 'USD')),
  -- 2019-04-03
  placed_on TEXT NOT NULL,
  PRIMARY KEY (customer_id, order_no)
);
CREATE INDEX ix_crm_orders_placed_on ON crm_orders (placed_on);

-- migrate:down

DROP TABLE crm_orders;
DROP TABLE crm_addresses;
DROP TABLE crm_customers;
