// SQLite with all of its memory on an arena (SQLITE_CONFIG_MALLOC).

#include "client.h"

#include <sqlite3.h>

static void *take(int size) { return enclave_malloc(arena, (size_t)size); }
static void give_back(void *address) { enclave_free(address); }
static void *resize(void *address, int size) { return enclave_realloc(address, (size_t)size); }
static int size_of(void *address) { return (int)enclave_usable_size(address); }
static int round_up(int size) { return (size + 7) & ~7; }
static int nothing(void *unused) {
  (void)unused;
  return SQLITE_OK;
}
static void nothing_more(void *unused) { (void)unused; }

static void run(sqlite3 *database, const char *sql) {
  char *message = NULL;
  if (sqlite3_exec(database, sql, NULL, NULL, &message) != SQLITE_OK) errx(1, "%s: %s", sql, message);
}

static long long number(sqlite3 *database, const char *sql) {
  sqlite3_stmt *statement;
  EXPECT(sqlite3_prepare_v2(database, sql, -1, &statement, NULL) == SQLITE_OK);
  EXPECT(sqlite3_step(statement) == SQLITE_ROW);
  long long result = sqlite3_column_int64(statement, 0);
  sqlite3_finalize(statement);
  return result;
}

int main(void) {
  start_client("sqlite");
  static sqlite3_mem_methods methods = {take, give_back, resize, size_of, round_up, nothing,
                                        nothing_more, NULL};
  EXPECT(sqlite3_config(SQLITE_CONFIG_MALLOC, &methods) == SQLITE_OK);
  sqlite3 *database;
  EXPECT(sqlite3_open(":memory:", &database) == SQLITE_OK);
  EXPECT(enclave_arena_owns(arena, database));
  run(database, "create table t(a integer primary key, b text, c blob)");
  run(database,
      "with recursive n(i) as (select 1 union all select i+1 from n where i<20000) "
      "insert into t select i, printf('%08d', i * 7919 % 20011), zeroblob(i % 600) from n");
  run(database, "create index tb on t(b)");
  EXPECT(number(database, "select count(*) from t") == 20000);
  EXPECT(number(database, "select count(*) from t x join t y on x.b = y.b where x.a % 5 = 0") == 4000);
  run(database, "update t set b = b || 'x', c = zeroblob(a % 900) where a % 3 = 0");
  run(database, "delete from t where a % 2 = 0");
  run(database, "vacuum");
  EXPECT(number(database, "select sum(length(c)) from t where a % 3 <> 0") > 0);
  EXPECT(number(database, "select count(*) from t where b like '%x'") == 3333);
  be_seen();
  EXPECT(sqlite3_close(database) == SQLITE_OK);
  EXPECT(sqlite3_shutdown() == SQLITE_OK);
  be_done(0);
  return 0;
}
