// Cards of which there may be a thousand: a box to find some by name, and as many at once as a page can hold.

import { useState, useMemo } from "preact/hooks";
import type { ComponentChildren } from "preact";
import { Button, count, Field, TextInput } from "../../kit";
import { sought } from "./filters";

const FILTER_FROM = 10;
const AT_ONCE = 50;

interface CardsProps<Item> {
  what: string; // in a sentence: "routes"
  items: readonly Item[];
  name: (item: Item) => string;
  children: (item: Item) => ComponentChildren;
}

export function Cards<Item>({ what, items, name, children }: CardsProps<Item>) {
  const [wanted, want] = useState("");
  const [most, setMost] = useState(AT_ONCE);
  const found = useMemo(() => sought(items, wanted, name), [items, wanted]);
  return (
    <>
      {items.length >= FILTER_FROM && (
        <div class="row-form">
          <Field label={`Find ${what}`} hint={`${count(found.length)} of ${count(items.length)}`}>
            <TextInput type="search" value={wanted} onChange={want} />
          </Field>
        </div>
      )}
      <div class="route-list">{found.slice(0, most).map(children)}</div>
      {found.length > most && (
        <div class="actions">
          <Button onPress={() => setMost(most + AT_ONCE)}>Show more of {count(found.length - most)} further {what}</Button>
        </div>
      )}
    </>
  );
}
