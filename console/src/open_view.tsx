// One view, loaded when it is first opened. What fails in it stays in it: the menu goes on working.

import { Component, type ComponentChildren, type ComponentType } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { Button } from "./kit/controls";
import { Busy, ErrorNotice, Notice } from "./kit/notices";
import type { View } from "./views";

export function OpenView({ view }: { view: View }) {
  const [opened, open] = useState<{ View: ComponentType } | null>(null);
  const [isMissing, miss] = useState(false);
  const content = useRef<HTMLDivElement>(null);
  const isFirst = useRef(document.activeElement === document.body);

  useEffect(() => {
    let isGone = false;
    document.title = `${view.title} · Headrace`;
    view.load().then(
      (module) => !isGone && open({ View: module.default }),
      () => !isGone && miss(true),
    );
    return () => {
      isGone = true;
    };
  }, [view]);

  // Whoever moved by the menu goes on reading at the heading of what was opened.
  useEffect(() => {
    const heading = content.current?.querySelector("h1");
    if (!opened || !heading || isFirst.current) return;
    heading.tabIndex = -1;
    heading.focus();
  }, [opened]);

  if (isMissing) {
    return (
      <Notice kind="warn" title="This part of the page is not there any more">
        <p>The server was updated, or does not answer. Reload the page to go on with the new one.</p>
        <div class="actions"><Button kind="main" onPress={() => location.reload()}>Reload</Button></div>
      </Notice>
    );
  }
  if (!opened) return <Busy />;
  return <div ref={content}><Boundary><opened.View /></Boundary></div>;
}

class Boundary extends Component<{ children: ComponentChildren }, { error: unknown }> {
  override state = { error: null };

  override componentDidCatch(error: unknown): void {
    this.setState({ error });
  }

  override render() {
    if (this.state.error === null) return this.props.children;
    return (
      <>
        <ErrorNotice error={this.state.error} title="This view met a defect" />
        <Button onPress={() => this.setState({ error: null })}>Open it again</Button>
      </>
    );
  }
}
