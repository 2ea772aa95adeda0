// Numbers as somebody reads them.

import assert from "node:assert/strict";
import { test } from "node:test";
import { bytes, money, moneyOfNanos, percent, seconds, tokens } from "./format";

test("money keeps what small amounts have to say", () => {
  assert.equal(money(0), "$0");
  assert.equal(money(12.5), "$12.50");
  assert.equal(money(1234.567), "$1234.57");
  assert.equal(money(0.5), "$0.50");
  assert.equal(money(0.0001234), "$0.000123");
  assert.equal(money(-0.25), "-$0.25");
  assert.equal(moneyOfNanos(1_500_000), "$0.0015");
  assert.equal(moneyOfNanos(1), "$0.000000001");
});

test("time", () => {
  assert.equal(seconds(0), "0 s");
  assert.equal(seconds(0.0000421), "42 µs");
  assert.equal(seconds(0.0042), "4.2 ms");
  assert.equal(seconds(0.25), "250 ms");
  assert.equal(seconds(1.5), "1.5 s");
  assert.equal(seconds(61), "1 min 1 s");
  assert.equal(seconds(7260), "2 h 1 min");
  assert.equal(seconds(90_000), "1 d 1 h");
});

test("sizes, shares and tokens", () => {
  assert.equal(bytes(0), "0 B");
  assert.equal(bytes(1536), "1.5 KiB");
  assert.equal(bytes(1_073_741_824), "1 GiB");
  assert.equal(percent(0.5), "50 %");
  assert.equal(percent(0.0123), "1.2 %");
  assert.equal(tokens(9999), "9,999");
  assert.equal(tokens(1_234_567), "1.2M");
});
