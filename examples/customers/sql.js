// Runs SQL on a database file, like the sqlite3 shell: node sql.js shop.db "SELECT …", or node sql.js shop.db < file.sql
import { readFileSync } from "node:fs";
import Database from "better-sqlite3";

const [file = "shop.db", ...words] = process.argv.slice(2);
const sql = words.length > 0 ? words.join(" ") : readFileSync(0, "utf8");
const db = new Database(file);
if (/^\s*(SELECT|WITH)\b/i.test(sql)) {
  for (const row of db.prepare(sql).raw().all()) console.log(row.map((value) => value ?? "NULL").join(" | "));
} else {
  db.exec(sql);
}
db.close();
