# Work with many allocations: python3 workload.py ROUNDS. Prints a checksum. With PYTHONMALLOC=malloc every object is
# allocated with malloc(3).

import collections
import json
import re
import sqlite3
import sys
import zlib

total = 0
for round in range(int(sys.argv[1])):
    rows = [{"id": i, "name": "n%d" % i, "tags": [str(j) for j in range(i % 10)], "x": i * 1.5}
            for i in range(2000)]
    text = json.dumps(rows)
    back = json.loads(text)
    words = collections.Counter(tag for row in back for tag in row["tags"])
    total += len(re.findall(r'"n\d+"', text)) + sum(words.values())
    total += len(zlib.decompress(zlib.compress(text.encode())))
    database = sqlite3.connect(":memory:")
    database.execute("create table t(a integer primary key, b text, c blob)")
    database.executemany("insert into t values(?, ?, ?)",
                         ((row["id"], row["name"], b"x" * (row["id"] % 900)) for row in back))
    total += database.execute("select sum(length(c)) from t where b like '%7'").fetchone()[0]
    database.close()
print(total)
