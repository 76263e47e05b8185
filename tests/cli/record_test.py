"""switchyard record, and run --record."""

import base64
import json
import os
import sqlite3
import struct

from files import read_safetensors, unpack, write_npy
from tool import BAD_DATA, CliTest, EXAMPLES, GOLDEN, INVALID_ARGUMENT, IO, main

MODEL = EXAMPLES / "tiny_qwen3_moe"


class Record(CliTest):
    def record_model(self, *arguments):
        return self.run_model(MODEL, "--record", "a.db", *arguments)

    def make_body(self, name, rows, start=0):
        """[R][L][K] of u8 as an engine sends them"""
        data = bytes(i for row in rows for layer in row for i in layer)
        shape = [len(rows), len(rows[0]), len(rows[0][0])]
        routed = {"data": base64.b64encode(data).decode(), "shape": shape, "start": start, "dtype": "uint8"}
        (self.folder / name).write_text(json.dumps({"choices": [{"routed_experts": routed}]}))

    def import_rows(self, rows, *arguments, name="body.json", start=0):
        self.make_body(name, rows, start)
        return self.call("record", "import", "a.db", name, "--experts", 16, *arguments)

    def stats(self):
        return json.loads(self.call("record", "stats", "a.db", "--json"))

    def test_a_run_is_recorded(self):
        source = read_safetensors(MODEL / "moe_blocks.safetensors")
        self.assertIn("sequence 'moe_blocks.safetensors'", self.record_model("--expect"))
        self.assertIn("sequence 'moe_blocks.safetensors 2'", self.record_model())
        self.call("record", "export", "a.db", "--sequence", "moe_blocks.safetensors", "--output", "o.safetensors")
        tensors = read_safetensors(self.folder / "o.safetensors")
        self.assertEqual(sorted(tensors), ["moe_blocks.safetensors.expert", "moe_blocks.safetensors.observed"])
        dtype, (layers, rows, topk), content = tensors["moe_blocks.safetensors.expert"]
        self.assertEqual(dtype, "U8")
        self.assertEqual(set(tensors["moe_blocks.safetensors.observed"][2]), {1})
        for layer in range(layers):
            kind, shape, expected = source[f"layer.{layer}.expert"]
            self.assertEqual(shape, [rows, topk])
            size = rows * topk
            recorded = content[layer * size : (layer + 1) * size]
            same = sum(sorted(recorded[r * topk : (r + 1) * topk]) == sorted(unpack(kind, expected)[r * topk : (r + 1) * topk])
                       for r in range(rows))
            self.assertGreaterEqual(same, rows - rows // 100)  # as close to its model as --expect finds it
        # The second run routed the same: every row is one that the other sequence has.
        (schema,) = self.stats()["schemas"]
        self.assertEqual([s["repeated"] for s in schema["sequences"]], [rows, rows])
        self.assertEqual(schema["rows"], 2 * rows)
        self.assertEqual([sum(load) for load in schema["load"]], [2 * rows * topk] * layers)
        self.assertIn("no damage", self.call("record", "verify", "a.db"))

    def test_show(self):
        self.record_model()
        text = self.call("record", "show", "a.db")
        for word in ("1 sequence", "moe_blocks.safetensors", "E ", "order kept", "continues"):
            self.assertIn(word, text)
        shown = json.loads(self.call("record", "show", "a.db", "--json"))
        self.assertEqual(shown["store"]["sequences"], 1)
        self.assertEqual(shown["sequences"][0]["missing"], 0)
        self.assertEqual(shown["sequences"][0]["schema"]["order"], "kept")

    def test_import_export(self):
        rows = [[[r % 16, (r + 1 + layer) % 16] for layer in range(3)] for r in range(40)]
        holed = [row if r % 10 else [[0, 0]] * 3 for r, row in enumerate(rows)]
        text = self.import_rows(holed, "--sequence", "s", "--policy-version", 7)
        self.assertEqual(text.split("\n")[1].split(), ["s", "0", "36", "0", "0", "0", "4"])
        self.call("record", "export", "a.db", "--output", "o.npy")
        blob = (self.folder / "o.npy").read_bytes()
        header = 10 + struct.unpack_from("<H", blob, 8)[0]
        self.assertIn(b"'shape': (40, 3, 2)", blob[:header])
        expected = [i if r % 10 else -1 for r, row in enumerate(rows) for layer in row for i in layer]
        # Row 39 is the last: 30 is missing before it.
        self.assertEqual(unpack("I32", blob[header:]), expected)

        # A later turn carries the whole: what was missing is filled, the rest is known.
        text = self.import_rows(rows, "--sequence", "s")
        self.assertEqual(text.split("\n")[1].split(), ["s", "0", "4", "36", "0", "0", "0"])
        other = [[[(i + 5) % 16 for i in layer] for layer in row] for row in rows[:2]]
        text = self.import_rows(other, "--sequence", "s", start=4)
        self.assertEqual(text.split("\n")[1].split(), ["s", "4", "0", "0", "2", "0", "0"])
        sequence = json.loads(self.call("record", "show", "a.db", "--json"))["sequences"][0]
        self.assertEqual([sequence[key] for key in ("rows", "observed", "missing", "conflicts", "policy_version")],
                         [40, 40, 0, 2, 7])
        self.call("record", "export", "a.db", "--output", "o.npy", "--layer", "2,0")
        blob = (self.folder / "o.npy").read_bytes()
        self.assertEqual(unpack("I32", blob[header:]), [i for row in rows for layer in (2, 0) for i in row[layer]])

    def test_import_of_npy(self):
        write_npy(self.folder / "x.npy", [5, 2, 2], bytes([1, 2, 3, 4] * 5), "U8")
        self.call("record", "import", "a.db", "x.npy", "--experts", 8, "--start", 3, "--layer", "4,9", "--order", "canonical")
        (sequence,) = json.loads(self.call("record", "show", "a.db", "--json"))["sequences"]
        self.assertEqual((sequence["key"], sequence["rows"], sequence["missing"]), ("x.npy", 8, 3))
        self.assertEqual(sequence["schema"]["layers"], [4, 9])
        self.assertEqual(sequence["schema"]["order"], "canonical")

    def test_imports_are_whole_or_nothing(self):
        rows = [[[1, 2]]] * 4
        self.make_body("good.json", rows)
        self.make_body("bad.json", [[[1, 99]]] * 4)
        message = self.call("record", "import", "a.db", "good.json", "bad.json", "--experts", 16, code=BAD_DATA)
        self.assertIn("99", message)
        self.assertEqual(json.loads(self.call("record", "show", "a.db", "--json"))["sequences"], [])
        (self.folder / "none.json").write_text('{"choices": []}')
        self.assertIn("none.json", self.call("record", "import", "a.db", "none.json", "--experts", 16, code=BAD_DATA))

    def test_stats_and_report(self):
        rows = [[[r * 7 % 16, (r * 7 + 3) % 16], [r % 16, (r + 1) % 16]] for r in range(100)]
        rows[50:62] = [rows[50]] * 12
        text = self.import_rows(rows, "--sequence", "<b>&")
        self.assertIn("<b>&", text)
        (schema,) = self.stats()["schemas"]
        self.assertEqual(schema["runs"], [{"sequence": "<b>&", "begin": 50, "rows": 12}])
        self.assertEqual(schema["rows"], 100)
        for layer, load in enumerate(schema["load"]):
            self.assertEqual(load, [sum(row[layer].count(e) for row in rows) for e in range(16)])
        first = schema["parts"][0]
        counts = [[sum(row[layer].count(e) for row in rows[first["begin"] : first["end"]]) for e in range(16)]
                  for layer in (0, 1)]
        mean = first["rows"] * 2 / 16
        self.assertAlmostEqual(first["imbalance"], sum(max(c) / mean for c in counts) / 2)
        text = self.call("record", "stats", "a.db", "--report", "page.html")
        for word in ("layer 0", "1 runs of more than 8", "positions 50-61", "page.html"):
            self.assertIn(word, text)
        page = self.check_page(self.folder / "page.html")
        for word in ("Load per expert and layer", "Imbalance over time", "Runs of equal rows", "<b>&", "100 rows, 0 missing"):
            self.assertIn(word, page.text)

    def test_verify_names_the_damage(self):
        self.import_rows([[[r % 16, (r + 1) % 16]] * 10 for r in range(600)], "--sequence", "s")
        database = sqlite3.connect(self.folder / "a.db")
        database.execute("UPDATE blobs SET data = zeroblob(length(data)) WHERE span_id = 2 AND layer_group = 1")
        database.commit()
        database.close()
        message = self.call("record", "verify", "a.db", code=BAD_DATA)
        self.assertIn("damaged in 1 place", message)
        message = self.call("record", "export", "a.db", "--output", "o.npy", code=BAD_DATA)
        self.assertIn("sequence 's' positions 256..511 layers 8..9", message)
        self.call("record", "export", "a.db", "--output", "o.npy", "--layer", "0,1,2,7")

    def test_compact(self):
        for at in range(0, 40, 4):
            self.import_rows([[[1, r % 8 + 2]] for r in range(4)], "--sequence", "s", start=at)
        done = json.loads(self.call("record", "compact", "a.db", "--json"))
        self.assertEqual(done["merged_spans"], 10)
        self.assertEqual(json.loads(self.call("record", "show", "a.db", "--json"))["store"]["spans"], 1)
        self.assertIn("0 spans merged", self.call("record", "compact", "a.db"))

    def test_wrong_calls(self):
        self.call("record", code=INVALID_ARGUMENT)
        self.call("record", "dance", "a.db", code=INVALID_ARGUMENT)
        self.assertIn("switchyard: record", self.call("record", "show", "none.db", code=IO))
        self.assertEqual(os.listdir(self.folder), [])
        self.import_rows([[[1, 2]]] * 3)
        self.call("record", "export", "a.db", "--output", "o.txt", code=INVALID_ARGUMENT)
        self.call("record", "export", "a.db", "--output", "o.npy", "--sequence", "q", code=INVALID_ARGUMENT)
        self.call("record", "export", "a.db", "--output", "o.npy", "--layer", "7", code=INVALID_ARGUMENT)
        self.import_rows([[[1, 2]]] * 3, name="b.json")
        self.assertIn("expected one --sequence",
                      self.call("record", "export", "a.db", "--output", "o.npy", code=INVALID_ARGUMENT))
        (self.folder / "text.db").write_text("x" * 5000)
        self.call("record", "stats", "text.db", code=BAD_DATA)
        self.assertIn("text.db", self.run_model(GOLDEN / "mixtral", "--record", "text.db", code=BAD_DATA))

    def test_help_of_every_part(self):
        for what in ("show", "stats", "verify", "compact", "export", "import"):
            self.assertIn("Example:\n  switchyard record " + what, self.call("record", what, "--help"))


if __name__ == "__main__":
    main()
