"""switchyard route, against the same formulas in Python."""

import math
import random

from files import pack, read_safetensors, to_bf16, unpack, write_npy, write_safetensors
from tool import BAD_DATA, INVALID_ARGUMENT, IO, CliTest, main

TOKENS, EXPERTS = 37, 24
SCORES = {
    "softmax": lambda l: [math.exp(x - max(l)) / sum(math.exp(y - max(l)) for y in l) for x in l],
    "sigmoid": lambda l: [1 / (1 + math.exp(-x)) for x in l],
    "sqrt_softplus": lambda l: [math.sqrt(math.log1p(math.exp(x))) for x in l],
    "logit": lambda l: l,
}


def best(values, count):
    return sorted(range(len(values)), key=lambda e: (-values[e], e))[:count]


def selection_of(score, options):
    selection = [s + b for s, b in zip(score, options.get("bias", [0] * EXPERTS))]
    if groups := options.get("groups"):
        size = EXPERTS // groups
        parts = [sorted(selection[g * size : (g + 1) * size], reverse=True) for g in range(groups)]
        kept = best([sum(part[: options.get("group_best", 1)]) for part in parts], options["kept_groups"])
        low = 0.0 if options.get("masked_zero") else -math.inf
        selection = [s if e // size in kept else low for e, s in enumerate(selection)]
    return selection


def logits_of(row, options):
    l = [options.get("logit_scale", 1) * x + b for x, b in zip(row, options.get("logit_bias", [0] * EXPERTS))]
    cap = options.get("softcap")
    return [cap * math.tanh(x / cap) for x in l] if cap else l


def normalised(weights, options):
    epsilon, power = options.get("epsilon", 0), options.get("power", 1)
    by = {"none": lambda: 1,
          "sum": lambda: sum(weights) + epsilon,
          "clamped": lambda: max(sum(weights), epsilon),
          "power": lambda: sum(abs(w) ** power for w in weights) ** (1 / power)}[options.get("normalize", "none")]()
    return [w / by for w in weights]


def sparsemixer(l, jitter=0.01):
    """Phi-3.5-MoE: each weight from a softmax of what is near the largest that is left."""
    experts, weights, left = [], [], list(l)
    for _ in range(2):
        top = max(left)
        near = [x if (top - l[e]) / max(abs(l[e]), top) <= 2 * jitter else -math.inf for e, x in enumerate(left)]
        experts.append(left.index(top))
        weights.append(1 / sum(math.exp(x - top) for x in near))
        left[experts[-1]] = -math.inf
    return experts, weights


def routed(row, token, options):
    """Experts and weights of a token."""
    l, score_name = logits_of(row, options), options.get("score", "softmax")
    if score_name == "sparsemixer":
        return sparsemixer(l)
    score = SCORES[score_name](l)
    experts = best(selection_of(score, options), options.get("topk", 1))
    if "table" in options:
        experts = options["table"][options["token_ids"][token]]
    if options.get("order") == "expert":
        experts = sorted(experts)
    weights = [score[e] for e in experts]
    if chosen := options.get("chosen"):
        weights = SCORES[chosen](weights)
    factors = options.get("expert_scale", [1] * EXPERTS)
    return experts, [w * options.get("scale", 1) * factors[e] for w, e in zip(normalised(weights, options), experts)]


class Route(CliTest):
    def setUp(self):
        super().setUp()
        self.random = random.Random(self.id())
        self.logits = self.f32(self.random.gauss(0, 2) for _ in range(TOKENS * EXPERTS))
        self.write("logits.npy", [TOKENS, EXPERTS], self.logits)

    @staticmethod
    def f32(values):
        return unpack("F32", pack("F32", list(values)))

    def write(self, name, shape, values, dtype="F32"):
        write_npy(self.folder / name, shape, pack(dtype, values), dtype)

    def numbers(self, count, low, high):
        return self.f32(self.random.uniform(low, high) for _ in range(count))

    def rows(self, values, width=EXPERTS):
        return [values[i : i + width] for i in range(0, len(values), width)]

    def route(self, *arguments, code=0):
        """name -> (dtype, shape, values)"""
        if "--logits" not in arguments:
            arguments = ("--logits", "logits.npy", *arguments)
        self.text = self.call("route", "--output", "out.safetensors", *arguments, code=code)
        if code:
            return self.text
        return {name: (dtype, shape, unpack(dtype, content))
                for name, (dtype, shape, content) in read_safetensors(self.folder / "out.safetensors").items()}

    def assert_near(self, have, want, tolerance=1e-5):
        self.assertEqual(len(have), len(want))
        for a, b in zip(have, want):
            self.assertLessEqual(abs(a - b), tolerance * max(1, abs(b)))

    def check(self, options):
        """Routes with these options and compares experts, weights and counts."""
        arguments = []
        for name, value in options.items():
            flag = "--" + name.replace("_", "-")
            if name == "table":
                self.write("table.npy", [len(value), len(value[0])], sum(value, []), "I16")
            elif isinstance(value, list):
                self.write(f"{name}.npy", [len(value)], value, "I64" if name == "token_ids" else "F32")
            arguments += [flag] if value is True else [flag, f"{name}.npy" if isinstance(value, list) else value]
        have = self.route(*arguments)
        want = [routed(row, t, options) for t, row in enumerate(self.rows(self.logits))]
        topk = options.get("topk", 1)
        self.assertEqual(have["expert"][:2], ("I32", [TOKENS, topk]))
        self.assertEqual(self.rows(have["expert"][2], topk), [experts for experts, _ in want])
        self.assertEqual(have["weight"][:2], ("F32", [TOKENS, topk]))
        self.assert_near(have["weight"][2], sum((weights for _, weights in want), []))
        ids = have["expert"][2]
        self.assertEqual(have["count"], ("I64", [1, EXPERTS], [ids.count(e) for e in range(EXPERTS)]))
        self.assertEqual(sorted(have), ["count", "expert", "weight"])

    def test_options(self):
        bias, scale = self.numbers(EXPERTS, -0.2, 0.2), self.numbers(EXPERTS, 0.5, 2)
        for options in (
            {},
            {"topk": 4},
            {"topk": 4, "normalize": "sum"},
            {"topk": 5, "order": "expert"},
            {"topk": 8, "score": "sigmoid", "normalize": "sum", "epsilon": 1e-3, "scale": 2.5, "bias": bias,
             "groups": 4, "kept_groups": 2, "group_best": 2},
            {"topk": 6, "groups": 6, "kept_groups": 3, "scale": 16.0},
            {"topk": 3, "score": "sigmoid", "groups": 8, "kept_groups": 2, "masked_zero": True, "bias": bias},
            {"topk": 3, "score": "sigmoid", "groups": 1, "kept_groups": 1, "bias": bias},
            {"topk": 6, "score": "sqrt_softplus", "normalize": "sum", "scale": 1.5, "bias": bias},
            {"topk": 4, "score": "logit", "chosen": "softmax", "logit_bias": bias},
            {"topk": 1, "score": "logit", "chosen": "sigmoid"},
            {"topk": 2, "score": "sigmoid", "normalize": "clamped", "epsilon": 1.9},
            {"topk": 4, "normalize": "power", "power": 2.0},
            {"topk": 2, "logit_scale": 0.5, "softcap": 3.0, "logit_bias": bias},
            {"topk": 3, "score": "sigmoid", "expert_scale": scale},
            {"topk": 2, "score": "sparsemixer"},
        ):
            with self.subTest(options):
                self.check(options)

    def test_table(self):
        table = [[self.random.randrange(EXPERTS) for _ in range(3)] for _ in range(10)]
        token_ids = [self.random.randrange(10) for _ in range(TOKENS)]
        self.check({"topk": 3, "score": "sqrt_softplus", "normalize": "sum", "table": table, "token_ids": token_ids})
        self.assertIn("no token_id", self.route("--topk", 3, "--table", "table.npy", code=INVALID_ARGUMENT))
        self.write("forced.npy", [TOKENS, 3], [t % 5 - 1 for t in range(TOKENS) for _ in range(3)], "I16")
        have = self.route("--topk", 3, "--table", "table.npy", "--token-ids", "token_ids.npy", "--forced", "forced.npy")
        self.assertEqual(self.rows(have["expert"][2], 3),
                         [[t % 5 - 1] * 3 if t % 5 else table[token_ids[t]] for t in range(TOKENS)])
        self.write("token_ids.npy", [TOKENS], [10] * TOKENS, "I32")
        arguments = ("--topk", 3, "--table", "table.npy", "--token-ids", "token_ids.npy")
        self.assertIn("token 0 has the id 10, expected 0..9", self.route(*arguments, code=INVALID_ARGUMENT))

    def test_every_output(self):
        valid = [int(self.random.random() < 0.8) for _ in range(TOKENS)]
        begin = [0, 10, 10, TOKENS]
        self.write("valid.npy", [TOKENS], valid, "BOOL")
        self.write("begin.npy", [4], begin, "I64")
        have = self.route("--topk", 3, "--score", "sigmoid", "--valid", "valid.npy", "--sequences", "begin.npy",
                          "--outputs", "expert,weight,probability,byte_map,bit_map,chosen_logit,aux_score,count,"
                          "score_sum,z_sum,valid_count,cutoff")
        experts, weights = self.rows(have["expert"][2], 3), self.rows(have["weight"][2], 3)
        count, score_sum = [[0] * EXPERTS for _ in range(3)], [[0.0] * EXPERTS for _ in range(3)]
        z_sum, valid_count = [0.0] * 3, [0] * 3
        for t, row in enumerate(self.rows(self.logits)):
            dense, aux, cutoff = [0.0] * EXPERTS, [0.0] * EXPERTS, -math.inf
            if valid[t]:
                self.assertEqual(experts[t], best(row, 3))
                for e, weight in zip(experts[t], weights[t]):
                    dense[e] = weight
                score = SCORES["sigmoid"](row)
                aux = [s / (sum(score) + 1e-20) for s in score]
                cutoff = sorted(score)[-4]
                s = max(i for i in range(3) if begin[i] <= t)
                z_sum[s] += math.log(sum(math.exp(x) for x in row)) ** 2
                valid_count[s] += 1
                for e in range(EXPERTS):
                    count[s][e] += e in experts[t]
                    score_sum[s][e] += aux[e]
            else:
                self.assertEqual((experts[t], weights[t]), ([-1] * 3, [0.0] * 3))
            used = [int(w > 0) for w in dense]
            self.assertEqual(self.rows(have["probability"][2])[t], dense)
            self.assertEqual(self.rows(have["byte_map"][2])[t], used)
            bits = [sum(used[8 * i + j] << j for j in range(8)) for i in range(3)]
            self.assertEqual(self.rows(have["bit_map"][2], 3)[t], bits)
            self.assert_near(self.rows(have["aux_score"][2])[t], aux)
            self.assertAlmostEqual(have["cutoff"][2][t], cutoff, 5)
            if valid[t]:
                self.assertEqual(self.rows(have["chosen_logit"][2], 3)[t], [row[e] for e in experts[t]])
        self.assertEqual(have["count"], ("I64", [3, EXPERTS], sum(count, [])))
        self.assertEqual(have["valid_count"], ("I64", [3], valid_count))
        self.assertEqual(have["score_sum"][:2], ("F64", [3, EXPERTS]))
        self.assert_near(have["score_sum"][2], sum(score_sum, []))
        self.assert_near(have["z_sum"][2], z_sum)
        self.assertEqual(have["bit_map"][:2], ("U8", [TOKENS, 3]))

    def test_histogram(self):
        have = self.route("--topk", 2, "--score", "sigmoid", "--outputs", "cutoff,histogram", "--bins", 16,
                          "--qb-lower", -0.25, "--qb-upper", 0.5)
        want = [0] * (EXPERTS * 16)
        for cutoff, row in zip(have["cutoff"][2], self.rows(self.logits)):
            for e, score in enumerate(SCORES["sigmoid"](row)):
                at = math.floor((cutoff - score + 0.25) / 0.75 * 16)
                want[e * 16 + min(max(at, 0), 15)] += 1
        self.assertEqual(have["histogram"], ("I32", [EXPERTS, 16], want))
        message = self.route("--topk", 2, "--score", "sigmoid", "--outputs", "histogram", code=INVALID_ARGUMENT)
        self.assertIn("found 0 bins", message)

    def test_types(self):
        plain = self.route("--topk", 3, "--outputs", "expert,weight,probability")
        for expert_type, weight_type, tolerance in (("i16", "bf16", 2**-8), ("i64", "f16", 2**-11), ("i32", "f32", 0)):
            have = self.route("--topk", 3, "--outputs", "expert,weight,probability", "--expert-type", expert_type,
                              "--weight-type", weight_type)
            self.assertEqual((have["expert"][0], have["weight"][0]), (expert_type.upper(), weight_type.upper()))
            self.assertEqual(have["probability"][0], weight_type.upper())
            self.assertEqual(have["expert"][2], plain["expert"][2])
            self.assert_near(have["weight"][2], plain["weight"][2], tolerance)
            self.assert_near(have["probability"][2], plain["probability"][2], tolerance)

    def test_logits_of_other_types(self):
        for dtype in ("BF16", "F16"):
            content = to_bf16(pack("F32", self.logits)) if dtype == "BF16" else pack(dtype, self.logits)
            tensors = {"l": (dtype, [TOKENS, EXPERTS], content), "other": ("I64", [1], bytes(8))}
            write_safetensors(self.folder / "narrow.safetensors", tensors, pad=False)
            narrow = self.route("--topk", 4, "--logits", "narrow.safetensors:l")
            self.assertIn(dtype.lower() + " logits", self.text)
            self.write("wide.npy", [TOKENS, EXPERTS], unpack(dtype, content))
            self.assertEqual(narrow, self.route("--topk", 4, "--logits", "wide.npy"))
        self.write("f16.npy", [TOKENS, EXPERTS], self.logits, "F16")
        self.assertEqual(narrow, self.route("--topk", 4, "--logits", "f16.npy"))

    def test_rounded_logits(self):
        rounded = []
        for x in self.logits:
            (bits,) = unpack("I32", pack("F32", [x]))
            rounded += unpack("F32", pack("I32", [(bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16]))
        have = self.route("--topk", 4, "--round-logits")
        self.write("rounded.npy", [TOKENS, EXPERTS], rounded)
        self.assertEqual(have, self.route("--topk", 4, "--logits", "rounded.npy"))

    def test_replay(self):
        live = self.route("--topk", 2)
        (self.folder / "out.safetensors").rename(self.folder / "live.safetensors")
        self.assertEqual(live, self.route("--topk", 2, "--forced", "live.safetensors:expert"))
        forced = [[e, (e + 5) % EXPERTS] for e in range(TOKENS - 13)] + [[-1, 3]] + [[7, 7]] * 12
        forced = [[a % EXPERTS if a >= 0 else a, b] for a, b in forced]
        replayed = [int(t % 3 > 0) for t in range(TOKENS)]
        self.write("forced.npy", [TOKENS, 2], sum(forced, []), "I64")
        self.write("replayed.npy", [TOKENS], replayed, "U8")
        have = self.route("--topk", 2, "--forced", "forced.npy", "--replayed", "replayed.npy")
        for t, row in enumerate(self.rows(self.logits)):
            is_live = not replayed[t] or -1 in forced[t]
            experts = self.rows(live["expert"][2], 2)[t] if is_live else forced[t]
            self.assertEqual(self.rows(have["expert"][2], 2)[t], experts)
            self.assert_near(self.rows(have["weight"][2], 2)[t], [SCORES["softmax"](row)[e] for e in experts])

    def test_table_that_is_printed(self):
        self.route("--topk", 2, "--outputs", "expert")
        self.assertEqual(list(read_safetensors(self.folder / "out.safetensors")), ["expert"])
        experts = self.route("--topk", 2)["expert"][2]
        load = [experts.count(e) for e in range(EXPERTS)]
        entropy = -sum(n / len(experts) * math.log(n / len(experts)) for n in load if n)
        row = next(line for line in self.text.splitlines() if line.startswith(f"{TOKENS} "))
        self.assertEqual(row.split(), [str(TOKENS), str(EXPERTS), "2", str(2 * TOKENS),
                                       f"{max(load) / (len(experts) / EXPERTS):.2f}", f"{entropy:.3f}", "of",
                                       f"{math.log(EXPERTS):.3f}", str(load.count(0))])
        self.assertIn("written: out.safetensors", self.text)

    def test_same_bits_for_every_number_of_threads(self):
        outputs = "expert,weight,probability,aux_score,count,score_sum,z_sum"
        first = self.route("--topk", 4, "--outputs", outputs, "--threads", 1)
        for threads in (2, 3):
            self.assertEqual(first, self.route("--topk", 4, "--outputs", outputs, "--threads", threads))

    def test_no_tokens(self):
        self.write("none.npy", [0, EXPERTS], [])
        have = self.route("--logits", "none.npy", "--topk", 2)
        self.assertEqual(have["expert"], ("I32", [0, 2], []))
        self.assertEqual(have["count"], ("I64", [1, EXPERTS], [0] * EXPERTS))

    def test_files_that_do_not_fit(self):
        self.write("short.npy", [EXPERTS - 1], [0] * (EXPERTS - 1))
        self.write("ids.npy", [TOKENS, 2], [0] * 2 * TOKENS, "I32")
        write_safetensors(self.folder / "two.safetensors", {name: ("F32", [1], bytes(4)) for name in "ab"})
        for arguments, code, part in (
            (("--logits", "short.npy"), BAD_DATA, f"short.npy: shape ({EXPERTS - 1}), expected (any, any)"),
            (("--logits", "ids.npy"), BAD_DATA, "ids.npy: elements are i32, expected f32, bf16, f16"),
            (("--logits", "two.safetensors"), BAD_DATA, "2 tensors, expected one, or its name as two.safetensors:NAME"),
            (("--logits", "two.safetensors:c"), BAD_DATA, "has no tensor c"),
            (("--logits", "nowhere.npy"), IO, "nowhere.npy"),
            (("--bias", "short.npy"), BAD_DATA, f"short.npy: shape ({EXPERTS - 1}), expected ({EXPERTS})"),
            (("--expert-scale", "short.npy"), BAD_DATA, "short.npy"),
            (("--logit-bias", "short.npy"), BAD_DATA, "short.npy"),
            (("--table", "ids.npy"), BAD_DATA, f"ids.npy: shape ({TOKENS}, 2), expected (any, 1)"),
            (("--forced", "ids.npy"), BAD_DATA, f"expected ({TOKENS}, 1)"),
            (("--forced", "logits.npy"), BAD_DATA, "elements are f32, expected i16, i32, i64"),
            (("--valid", "ids.npy"), BAD_DATA, "elements are i32, expected u8, bool"),
            (("--sequences", "ids.npy"), BAD_DATA, "elements are i32, expected i64"),
        ):
            with self.subTest(arguments):
                message = self.route(*arguments, code=code)
                self.assertIn(part, message)
        self.assertFalse((self.folder / "out.safetensors").exists())

    def test_options_that_cannot_be(self):
        for arguments, part in (
            (("--topk", EXPERTS + 1), f"found topk {EXPERTS + 1} for {EXPERTS} experts"),
            (("--topk", 65), "--topk: '65', expected a number from 1 to 64"),
            (("--score", "tanh"), "--score: tanh not in"),
            (("--outputs", "expert,gate"), "--outputs: gate not in"),
            (("--outputs", "histogram", "--bins", 0), "--bins: '0', expected"),
            (("--groups", 5, "--kept-groups", 2), f"found 5 groups for {EXPERTS} experts"),
            (("--chosen", "softmax"), "expected score logit"),
            (("--softcap", "nan"), "found softcap nan"),
        ):
            with self.subTest(arguments):
                self.assertIn(part, self.route(*arguments, code=INVALID_ARGUMENT))
        self.write("begin.npy", [1], [0], "I64")
        self.assertIn("1 borders", self.route("--sequences", "begin.npy", code=BAD_DATA))
        arguments = ("--logits", "logits.npy", "--output", "no/such/folder.safetensors")
        self.call("route", *arguments, code=IO)


if __name__ == "__main__":
    main()
