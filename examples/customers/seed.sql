-- The shop's database as it grew since 2009: one wide table, and a decade of habits in it.

CREATE TABLE clients (
  id INTEGER PRIMARY KEY,
  full_name TEXT,
  emails TEXT,
  phone TEXT,
  bill_street TEXT,
  bill_zip TEXT,
  bill_city TEXT,
  -- All NULL: the same as the billing address.
  ship_street TEXT,
  ship_zip TEXT,
  ship_city TEXT,
  -- [{"no": "A-1001", "total": "12,50 €", "placed": "03/04/2019"}]
  orders TEXT,
  remarks TEXT,
  vip TEXT DEFAULT 'N',
  -- Unix seconds.
  created INTEGER,
  -- Of the loyalty programme of 2014. Nobody remembers what for.
  loyalty_no INTEGER
);
CREATE INDEX ix_clients_full_name ON clients (full_name);

INSERT INTO clients VALUES
  (1, 'Ada Lovelace', 'ada@example.org', '+49301234567', 'Torstraße 1', '10119', 'Berlin', NULL, NULL, NULL, '[{"no":"A-1001","total":"12,50 €","placed":"03/04/2019"},{"no":"A-1002","total":"1234,00 €","placed":"17/11/2019"}]', NULL, 'Y', 1254387600, NULL),
  (2, 'Grace Brewster Hopper', 'grace@example.org; Grace.Hopper@Navy.example', '030 / 765 43-21', 'Kantstr. 17', '10623', 'Berlin', 'Hafen 3, Lager B', '20457', 'Hamburg', '[ {"no": "A-1003", "total": "1.299,00 €", "placed": "2/5/2019"} ]', 'Rings twice.', 'N', 1262304000, 1001),
  (3, 'Turing, Alan', 'alan@example.org', '0049 30 5550199', 'Bletchleyweg 5', '14195', 'Berlin', NULL, NULL, NULL, NULL, NULL, 'n', 1265000000, 1002),
  (4, 'Konrad Zuse', NULL, NULL, 'Methfesselstraße 7', '10965', 'Berlin', NULL, NULL, NULL, '', NULL, 'N', 1270000000, NULL),
  (5, 'Hedy Lamarr', 'hedy@example.org,office@lamarr.example', '(030) 998877', 'Wienerstr. 12', '01069', 'Dresden', NULL, NULL, NULL, '[{"no":"A-1007","total":"99 €","placed":"05/05/2019"},{"no":"A-1004","total":"8,90 €","placed":"04/05/2019"}]', NULL, 'yes', 1271000000, NULL),
  (6, '  Emmy   Noether ', 'emmy@example.org', 'ask her brother', 'Hauptstr. 2', '91054', 'Erlangen', NULL, NULL, NULL, '[]', 'Phone only after six', 'N', 1272000000, NULL),
  (7, 'Plato', 'plato@example.org', '+30 210 555 0101', 'Akademias 1', '10671', 'Athen', NULL, NULL, NULL, '[{"no":1008,"total":"12,5 EUR","placed":"01/06/2019"}]', NULL, NULL, 1273000000, 1003),
  (8, 'Sofja Wassiljewna Kowalewskaja', 'sofja@example.org', '0711-223344', 'Königstr. 40', '70173', 'Stuttgart', 'Königstr. 40', '70173', 'Stuttgart', '[{"no":"A-1009","total":"450,00 CHF","placed":"11/06/2019"}]', NULL, 'Y', 1274000000, NULL),
  (9, 'Edsger W. Dijkstra', 'edsger@example.org', '+31 20 555 0102', 'Nuenen 4', NULL, 'Eindhoven', NULL, NULL, NULL, NULL, 'No phone calls', '', 1275000000, NULL),
  (10, 'Barbara Liskov', 'barbara@example.org', '0351 4445566', 'Prager Str. 3', '01069', 'Dresden', NULL, NULL, NULL, '[{"no":"A-1010","total":"19,99 €","placed":"12/06/2019"},{"no":"A-1011","total":"-19,99 €","placed":"19/06/2019"}]', 'Sent one back', 'N', 1276000000, NULL),
  (11, 'Donald Knuth', 'don@example.org', '', 'Volume Lane 4', '94305', 'Stanford', NULL, NULL, NULL, '[{"no":"A-1012","total":"2,56 USD","placed":"13/06/2019"}]', '', 'Y', 1277000000, NULL),
  (12, 'Margaret Hamilton', 'margaret@example.org', '040 11223344', 'Mondweg 11', '22761', 'Hamburg', NULL, NULL, NULL, '[{"no":"A-1013","total":"ask Jim","placed":"14/06/2019"}]', NULL, 'N', 1278000000, NULL),
  (13, 'Radia Perlman', 'radia@example.org', '040/998 877', 'Brücke 8', '20459', 'Hamburg', NULL, NULL, NULL, 'see the blue folder', NULL, 'N', 1279000000, 1004),
  (14, 'Tony Hoare', 'tony@example.org', '0221 555 0103', 'Domplatz 1', '50667', 'Köln', NULL, NULL, NULL, '[{"no":"A-1014","total":"1000000,00 €","placed":"31/02/2019"}]', 'billion-euro mistake', 'N', 1280000000, NULL),
  (15, 'Frances Allen', 'fran@example.org', '0221 555 0104', 'Ring 22', '50674', 'Köln', NULL, NULL, NULL, '[{"no":"A-1015","total":"35,00 €","placed":"15/06/2019"},{"no":"A-1015","total":"36,00 €","placed":"16/06/2019"}]', NULL, 'N', 1281000000, NULL),
  (16, '', 'nobody@example.org', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'test, please delete', 'N', 1282000000, NULL),
  (17, 'Niklaus Wirth', 'niklaus@example.org', '+41 44 555 01 05', 'Rämistrasse 101', '8092', 'Zürich', NULL, NULL, NULL, '[{"no":"A-1016","total":"75,00 CHF","placed":"18/06/2019"}]', NULL, 'maybe', 1283000000, NULL),
  (18, 'Lynn Conway', 'lynn@example.org', '+1 734 555 0106', 'Chip Ave 6', '48104', 'Ann Arbor', NULL, NULL, NULL, '[{"no":"A-1017","total":"15,00 €","placed":"20/06/2019","coupon":"SUMMER"}]', NULL, 'N', 1284000000, NULL),
  (19, 'John McCarthy', 'john@example.org', '0611 555 0107', 'Klammerweg 9', '65183', 'Wiesbaden', NULL, NULL, NULL, NULL, '((()))', 'N', 1285000000123, NULL),
  (20, 'Adele Goldberg', 'adele@example.org', '0611 555 0108', 'Fensterplatz 80', '65185', 'Wiesbaden', NULL, NULL, NULL, '[{"no":"A-1018","total":"1.050,00 €","placed":"21/06/2019"}]', NULL, 'y', 1286000000, 1005),
  (21, 'Alan Kay', 'kay@example.org', '06151 555 0109', 'Objektweg 72', '64283', 'Darmstadt', NULL, NULL, NULL, NULL, NULL, 'N', NULL, NULL),
  (22, 'Mary Kenneth Keller', 'mary@example.org', '06151 5550110', 'Basic Str. 10', '64289', 'Darmstadt', 'Konvent', NULL, 'Dubuque', NULL, NULL, 'N', 1288000000, NULL),
  (23, 'Jean Bartik', NULL, '0201 555 0111', NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'no address yet', 'N', 1289000000, NULL),
  (24, 'Kathleen Antonelli', 'KATHLEEN@EXAMPLE.ORG', '0201 555 0112', 'Eniacstr. 45', '45127', 'Essen', NULL, NULL, NULL, '[{"no":"A-1019","total":"5,00 €","placed":"22/06/2019"}]', NULL, 'N', 1290000000, NULL),
  (25, 'Ida Rhodes', 'ida@example.org', '0231/555-0113', 'Am Markt 1', '44137', 'Dortmund', NULL, NULL, NULL, '[{"no":"A-1020","total":"7,77 €","placed":"23/06/2019"}]', 'Ü-Wagen, Tür links ☎', 'N', 1291000000, NULL),
  (26, 'Evelyn Boyd Granville', 'evelyn@example.org', '0231 555 0114', 'Raketenweg 26', '44139', 'Dortmund', '', '', '', NULL, NULL, 'N', 1292000000, NULL),
  (27, 'Gladys West', 'gladys@example.org', '0421 555 0115', 'Geoidallee 84', '28195', 'Bremen', NULL, NULL, NULL, '[{"no":"A-1021","total":"0,99 €","placed":"24/06/2019"}]', NULL, 'N', 1293000000, 1006),
  (28, 'Christopher Strachey', 'c.strachey@example.org', NULL, 'Spielweg 8', '28199', 'Bremen', NULL, NULL, NULL, NULL, NULL, 'N', 1294000000, NULL),
  (29, 'Beatrice Worsley', 'bea@example.org', '0511 555 0116', 'Fertigstr. 13', '30159', 'Hannover', NULL, NULL, NULL, '[{"no":"A-1022","total":"64,00 €","placed":"25/06/2019"},{"no":"A-1023","total":"64,00 €","placed":"25/06/2019"}]', NULL, 'N', 1295000000, NULL),
  (30, 'Kurt Gödel', 'kurt@example.org', 'unvollständig', 'Josefstädter Str. 43a', '1080', 'Wien', NULL, NULL, NULL, '[{"no":"A-1024","total":"43,00 €","placed":"26/06/2019"}]', 'Cannot be reached, provably.', 'N', 1296000000, NULL);
