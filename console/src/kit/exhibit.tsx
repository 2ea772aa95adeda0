// Every part of the kit on one page, for its tests (tests/console/test_kit.py). No view imports it, so that nothing of it is
// in what the server gives out.

import { render } from "preact";
import { useState } from "preact/hooks";
import {
  Badge, Busy, Button, Chart, Checkbox, confirm, Dialog, ErrorNotice, Field, Meter, Notice, NumberInput, Plain, Select, Table, Tabs,
  TextArea, TextInput, toast, usePolled,
} from ".";
import { ApiError } from "../api";
import { Questions } from "./dialog";
import { Toasts } from "./notices";

interface Row {
  name: string;
  size: number;
}

const many: Row[] = Array.from({ length: 5000 }, (_, index) => ({ name: `model-${String(index).padStart(4, "0")}`, size: (index * 7919) % 5000 }));
const columns = [
  { key: "name", title: "Name", cell: (row: Row) => row.name, sort: (a: Row, b: Row) => a.name.localeCompare(b.name) },
  { key: "size", title: "Size", cell: (row: Row) => row.size, align: "end" as const, sort: (a: Row, b: Row) => a.size - b.size },
];
const hostile = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script> a\u202eb\u0007c";

function Inputs() {
  const [text, write] = useState("");
  const [number, count] = useState<number | null>(2);
  const [isOn, turn] = useState(false);
  const [chosen, choose] = useState<"one" | "two">("one");
  return (
    <section aria-label="Inputs">
      <Field label="A name" hint="what it is called" error={text === "bad" ? "is taken" : null}><TextInput value={text} onChange={write} /></Field>
      <Field label="A text"><TextArea value={text} onChange={write} onSubmit={() => toast("sent")} /></Field>
      <Field label="A number"><NumberInput value={number} onChange={count} min={0} /></Field>
      <Select label="A choice" value={chosen} options={["one", { value: "two", title: "Two" }]} onChange={choose} />
      <Checkbox label="A switch" checked={isOn} onChange={turn} hint="on or off" />
      <output><Plain mono text={JSON.stringify({ text, number, isOn, chosen })} /></output>
    </section>
  );
}

function Questioned() {
  const [told, tell] = useState("");
  const [isOpen, open] = useState(false);
  const ask = async (typed?: string) =>
    tell(String(await confirm({ title: "Erase it?", body: <Plain text={hostile} />, action: "Erase", danger: true, ...(typed ? { typed } : {}) })));
  return (
    <section aria-label="Questions">
      <Button kind="danger" onPress={() => void ask()}>Ask</Button>
      <Button kind="danger" onPress={() => void ask("model-1")}>Ask for its name</Button>
      <Button onPress={() => open(true)}>Open</Button>
      <Button onPress={() => toast(hostile, "bad")}>Tell</Button>
      <Button busy>Busy</Button>
      <Dialog title="A dialog" open={isOpen} onClose={() => open(false)}>Within.</Dialog>
      <output>{told}</output>
    </section>
  );
}

function Polled() {
  const { data, error, isOld, reload } = usePolled<{ value: number }>("/exhibit/value", 1000);
  return (
    <section aria-label="Polled">
      <output>{data === null ? "nothing" : `${data.value}${isOld ? " old" : ""}`}</output>
      {error !== null && <ErrorNotice error={error} />}
      <Button onPress={reload}>Read again</Button>
    </section>
  );
}

function Exhibit() {
  const [tab, turn] = useState("first");
  const [opened, open] = useState("");
  const [length, grow] = useState(0);
  return (
    <main>
      <h1>The kit</h1>
      <Inputs />
      <Questioned />
      {location.search.includes("polled") && <Polled />}
      <section aria-label="Told">
        <Notice title="Good to know">A notice.</Notice>
        <ErrorNotice error={new ApiError(429, "rate_limited", hostile, "req_1")} />
        <Badge kind="good">up</Badge> <Busy />
        <Meter label="Spent" value={95} max={100} text="95 of 100" />
        <p id="hostile"><Plain text={hostile} /></p>
        <Button onPress={() => grow(length + 400_000)}>Grow</Button>
        <div id="long">{length > 0 && <Plain text={"word ".repeat(length / 5)} />}</div>
      </section>
      <section aria-label="Tables">
        <Table label="Models" columns={columns} rows={many} rowKey={(row) => row.name} onOpen={(row) => open(row.name)} empty="None." filter={(row) => row.name} />
        <Table label="Nothing" columns={columns} rows={[]} rowKey={(row) => row.name} empty="There is nothing." />
        <output>{opened}</output>
      </section>
      <Tabs label="Parts" value={tab} onChange={turn} tabs={[{ id: "first", title: "First" }, { id: "second", title: "Second" }]}>
        {tab === "first" ? (
          <Chart
            label="Requests"
            series={[{ label: "running", format: (value) => `${value} now` }, { label: "waiting" }]}
            data={[[1000, 1001, 1002], [1, 5, 3], [0, null, 2]]}
          />
        ) : <Chart label="Bars" kind="bars" x="number" series={[{ label: "size" }]} data={[[1, 2, 3], [3, 1, 2]]} />}
      </Tabs>
      <Questions />
      <Toasts />
    </main>
  );
}

render(<Exhibit />, document.getElementById("page")!);
