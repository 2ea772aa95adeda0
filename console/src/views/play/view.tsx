// The view "Play": a conversation with one or two models or routes, and all that can be known of each answer.

import { useEffect, useMemo, useRef } from "preact/hooks";
import { Button, confirm, ErrorNotice, Field, TextArea, usePolled, useSession } from "../../kit";
import { settingsError } from "./asking";
import { Conversation, exported } from "./conversation";
import type { ModelCard } from "./model_choice";
import { ModelPicker } from "./model_picker";
import "./play.css";
import { Keeper } from "./keeping";
import { KeptHint, Missing } from "./kept_view";
import { receive } from "./receiving";
import { ownerOf } from "../../session";
import { tabShelf } from "../../tab_shelf";
import { save } from "./saving";
import { SettingsPanel } from "./settings_panel";
import { TurnView } from "./turn_view";
import { useChanges } from "./use_changes";

const LIST_EVERY_MS = 60_000;

// One for the page: it goes on while another view is open.
const conversation: Conversation = new Conversation((step) => {
  void receive(step).then(() => {
    conversation.changed();
    keeper.save();
  });
});
const keeper = new Keeper(conversation, tabShelf);
tabShelf.onForget(() => keeper.forget());
addEventListener("pagehide", () => keeper.leave());
addEventListener("pageshow", () => keeper.stay());
document.addEventListener("visibilitychange", () => document.visibilityState === "hidden" && keeper.save());

export default function Play() {
  const session = useSession();
  const talk = useFollowed();
  const isWide = useMemo(() => matchMedia("(min-width: 56rem)").matches, []);
  // Before anything of it is drawn.
  useMemo(() => {
    conversation.belongTo(ownerOf(session));
    keeper.read();
  }, [session]);
  useChanges(conversation);
  const { data, error } = usePolled<{ data: ModelCard[] }>("/v1/models", LIST_EVERY_MS);
  const cards = data?.data ?? [];
  const first = cards.find((card) => card.tasks === undefined || card.tasks.includes("generate"))?.id;
  useEffect(() => {
    if (first !== undefined && conversation.models[0] === "") conversation.set({ models: [first, ...conversation.models.slice(1)] });
  }, [first]);
  return (
    <div class="play">
      <h1 class="unseen" tabIndex={-1}>Play</h1>
      <aside aria-label="Models and parameters">
        <Models cards={cards} />
        {error !== null && <ErrorNotice error={error} title="The list of models cannot be read" />}
        <details class="play-more" open={isWide}>
          <summary>Settings</summary>
          <SettingsPanel
            settings={conversation.settings}
            onChange={(change) => conversation.set({ settings: { ...conversation.settings, ...change } })}
          />
        </details>
        <ConversationButtons />
        <KeptHint standing={keeper.standing} />
      </aside>
      <div class="play-talk" ref={talk}>
        <Missing lost={conversation.lost} />
        {conversation.turns.length === 0 && (
          <p class="hint">Say something: the answer streams in, and each has its tokens, its prompt and its record to look at.</p>
        )}
        {conversation.turns.map((turn, at) => <TurnView key={turn.id} conversation={conversation} turn={turn} at={at} />)}
        <Composer />
      </div>
    </div>
  );
}

const NEAR_PX = 80;

// Stays at the end while an answer grows, for who was there; who has scrolled up stays where they are.
function useFollowed() {
  const box = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const page = document.documentElement;
    let isAtEnd = true;
    const look = () => (isAtEnd = page.scrollHeight - page.clientHeight - page.scrollTop < NEAR_PX);
    const observer = new ResizeObserver(() => {
      if (isAtEnd && conversation.isRunning) page.scrollTop = page.scrollHeight;
    });
    observer.observe(box.current!);
    addEventListener("scroll", look, { passive: true });
    return () => {
      observer.disconnect();
      removeEventListener("scroll", look);
    };
  }, []);
  return box;
}

function Models({ cards }: { cards: readonly ModelCard[] }) {
  const { models } = conversation;
  const choose = (lane: number, model: string) =>
    conversation.set({ models: models.map((old, at) => (at === lane ? model : old)) });
  const isTwo = models.length === 2;
  return (
    <>
      <ModelPicker label={isTwo ? "First model" : "Model"} cards={cards} value={models[0]!} onChange={(model) => choose(0, model)} />
      {isTwo && <ModelPicker label="Second model" cards={cards} value={models[1]!} onChange={(model) => choose(1, model)} />}
      <Button pressed={isTwo} onPress={() => conversation.setLanes(isTwo ? models.slice(0, 1) : [models[0]!, models[0]!])}>
        Side by side
      </Button>
    </>
  );
}

function ConversationButtons() {
  const isEmpty = conversation.turns.length === 0;
  const clear = async () => {
    const isSure = await confirm({
      title: "Begin a new conversation?",
      body: "This one is forgotten: it is kept in this tab alone. You can save it first.",
      action: "Begin anew",
    });
    if (!isSure) return;
    conversation.clear();
    keeper.save();
  };
  const saveAll = () => save("conversation.json", JSON.stringify(exported(conversation), null, 2), "application/json");
  return (
    <div class="row">
      <Button disabled={isEmpty} onPress={saveAll}>Save as JSON</Button>
      <Button disabled={isEmpty} onPress={clear}>New conversation</Button>
    </div>
  );
}

function Composer() {
  const { draft, settings, models, isRunning } = conversation;
  const wrong = settingsError(settings) ?? (models.includes("") ? "Choose a model first." : null);
  const canSend = draft !== "" && !isRunning && wrong === null;
  const sendNow = () => {
    const text = conversation.draft; // what was typed since the last frame counts, too
    if (text === "" || conversation.isRunning || wrong !== null) return;
    conversation.set({ draft: "" });
    conversation.send(text);
  };
  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        sendNow();
      }}
    >
      <Field label="Message" hint="Ctrl+Enter sends." error={wrong}>
        <TextArea value={draft} onChange={(text) => conversation.set({ draft: text })} rows={2} onSubmit={sendNow} />
      </Field>
      <div class="row">
        <Button type="submit" kind="main" disabled={!canSend}>Send</Button>
        <Button disabled={!isRunning} onPress={() => conversation.stop()}>Stop</Button>
      </div>
    </form>
  );
}
