// The frame of the page: which view is open, who is signed in, what happened to the connection. Knows no view but by
// views.ts.

import { useCallback, useEffect, useMemo, useRef, useState } from "preact/hooks";
import { ApiError, onConnection } from "./api";
import { Dialog, Questions } from "./kit/dialog";
import { Button, Select } from "./kit/controls";
import { Busy, ErrorNotice, Notice, Toasts } from "./kit/notices";
import { Plain } from "./kit/plain";
import { pauseMs } from "./kit/polled";
import { followLinks, usePath } from "./kit/route";
import { chooseTheme, readTheme, type Theme } from "./kit/theme";
import { may, ownerOf, readSession, SessionContext, signOut, type Session } from "./session";
import { SignIn } from "./sign_in";
import { OpenView } from "./open_view";
import { tabShelf } from "./tab_shelf";
import { VIEWS, type View } from "./views";

const TRY_EVERY_MS = 1000;
const LONGEST_TIMER_MS = 2 ** 31 - 1;

export function Shell() {
  const { session, error, setSession, read } = useSignedIn();
  const { isLost, hasEnded, renew } = useConnection(session, setSession);
  useEffect(() => {
    document.addEventListener("click", followLinks);
    return () => document.removeEventListener("click", followLinks);
  }, []);
  useEndedElsewhere(setSession);
  const signedIn = (next: Session) => {
    renew();
    setSession(next);
  };

  if (session === null) {
    return <main>{error && !isLost ? <><ErrorNotice error={error} /><Button onPress={read}>Try again</Button></> : <Waiting isLost={isLost} />}</main>;
  }
  if (session.needs_sign_in) {
    return (
      <main class="sign-in">
        <h1>Headrace</h1>
        <p class="hint">Sign in to try models and to see and manage this server.</p>
        {hasEnded && <Notice kind="warn" title="Your sign-in has ended">It expired, or its key was taken back.</Notice>}
        <SignIn onSignedIn={signedIn} />
        <ThemeChoice />
        <Toasts />
      </main>
    );
  }
  return (
    <SessionContext.Provider value={session}>
      <Frame session={session} isLost={isLost} onSignedOut={setSession} />
      <Dialog title="Your sign-in has ended" open={hasEnded} onClose={() => setSession({ ...session, needs_sign_in: true })}>
        <p>It expired, or its key was taken back. What you see stays; sign in again to go on.</p>
        <SignIn onSignedIn={signedIn} />
      </Dialog>
      <Questions />
      <Toasts />
    </SessionContext.Provider>
  );
}

// Whoever signs out in one tab has signed out in all of them.
function useEndedElsewhere(setSession: (session: Session) => void) {
  useEffect(() => {
    const look = () => {
      if (tabShelf.hasEnded()) readSession().then(setSession, () => undefined);
    };
    addEventListener("storage", look);
    addEventListener("pageshow", look);
    return () => {
      removeEventListener("storage", look);
      removeEventListener("pageshow", look);
    };
  }, [setSession]);
}

function Waiting({ isLost }: { isLost: boolean }) {
  return isLost ? <Notice kind="warn" title="The server does not answer">The page tries again by itself.</Notice> : <Busy label="Opening" />;
}

function useSignedIn() {
  const [session, setSession] = useState<Session | null>(null);
  const [error, setError] = useState<unknown>(null);
  const read = useCallback(() => {
    setError(null);
    readSession().then(setSession, setError);
  }, []);
  useEffect(read, [read]);
  return { session, error, setSession, read };
}

// Listens to what every call learns of the connection. While it is lost the shell asks again, with growing pauses, and at
// once when the network or the person comes back.
function useConnection(session: Session | null, setSession: (session: Session) => void) {
  const [isLost, lose] = useState(false);
  const [hasEnded, end] = useState(false);
  const isSignedIn = session !== null && !session.needs_sign_in;
  const knew = useRef(isSignedIn);
  knew.current = isSignedIn;
  const renew = useCallback(() => end(false), []);

  useEffect(
    () =>
      onConnection((status) => {
        if (status === "lost") lose(true);
        else lose(false);
        if (status === "signed-out" && knew.current) end(true);
      }),
    [],
  );

  useEffect(() => {
    if (!isLost) return undefined;
    let tries = 0;
    let timer: ReturnType<typeof setTimeout>;
    const ask = () => {
      clearTimeout(timer);
      if (document.hidden) return;
      readSession().then(
        (now) => takeIn(now, knew.current, setSession, end),
        (error: unknown) => {
          if (!(error instanceof ApiError) || error.status !== 0) return;
          tries += 1;
          timer = setTimeout(ask, pauseMs(TRY_EVERY_MS, tries));
        },
      );
    };
    timer = setTimeout(ask, TRY_EVERY_MS);
    addEventListener("online", ask);
    document.addEventListener("visibilitychange", ask);
    return () => {
      clearTimeout(timer);
      removeEventListener("online", ask);
      document.removeEventListener("visibilitychange", ask);
    };
  }, [isLost, setSession]);

  // Whoever moves to another view learns there of what changed since: a key taken back, other scopes.
  const view = usePath().split("/")[0];
  const first = useRef(view);
  useEffect(() => {
    if (view === first.current || !knew.current) return;
    first.current = view;
    readSession().then((now) => takeIn(now, knew.current, setSession, end), () => undefined);
  }, [view, setSession]);

  // A sign-in that ends while nothing is asked is told all the same.
  useEffect(() => {
    if (!isSignedIn || session.expires === null) return undefined;
    const leftMs = Math.max(0, session.expires * 1000 - Date.now()) + 1000;
    if (leftMs > LONGEST_TIMER_MS) return undefined;
    const timer = setTimeout(() => {
      readSession().then((now) => takeIn(now, true, setSession, end), () => undefined);
    }, leftMs);
    return () => clearTimeout(timer);
  }, [isSignedIn, session?.expires]);

  return { isLost, hasEnded, renew };
}

// Whoever was signed in and is no more keeps what the page shows, under a question to sign in again.
function takeIn(now: Session, was: boolean, setSession: (session: Session) => void, end: (ended: boolean) => void): void {
  if (was && now.needs_sign_in) end(true);
  else setSession(now);
}

interface FrameProps {
  session: Session;
  isLost: boolean;
  onSignedOut: (session: Session) => void;
}

function Frame({ session, isLost, onSignedOut }: FrameProps) {
  const path = usePath();
  const owner = ownerOf(session);
  useMemo(() => tabShelf.settle(owner), [session]); // before a view reads what was kept
  const views = VIEWS.filter((one) => may(session, one.scopes));
  const wanted = path.split("/")[0];
  const view = wanted ? VIEWS.find((one) => one.path === wanted) : views[0];
  return (
    <>
      <a class="skip" href="#content">To the content</a>
      <header class="top">
        <a class="brand" href="/console/">Headrace</a>
        <nav aria-label="Views">
          {views.map((one) => (
            <a key={one.path} href={`/console/${one.path}`} aria-current={one === view ? "page" : undefined}>{one.title}</a>
          ))}
        </nav>
        <Who session={session} onSignedOut={onSignedOut} />
      </header>
      <div class="bar" role="status">{isLost && <><strong>The connection is lost.</strong> What you see is old. The page tries again by itself.</>}</div>
      <main id="content" tabIndex={-1} class={isLost ? "is-old" : undefined}>
        <Content view={view} session={session} key={owner} />
      </main>
    </>
  );
}

function Content({ view, session }: { view: View | undefined; session: Session }) {
  if (!view) return <Notice kind="warn" title="There is no such view">Choose one from the menu.</Notice>;
  if (!may(session, view.scopes)) {
    return (
      <Notice kind="warn" title={`You may not see ${view.title}`}>
        <p>It needs one of these scopes: {view.scopes.join(", ")}. Sign in with a key that has it.</p>
      </Notice>
    );
  }
  return <OpenView key={view.path} view={view} />;
}

function Who({ session, onSignedOut }: { session: Session; onSignedOut: (session: Session) => void }) {
  const [isBusy, busy] = useState(false);
  const leave = () => {
    busy(true);
    signOut()
      .then(() => {
        tabShelf.signOut();
        return readSession();
      })
      .then(onSignedOut, () => undefined)
      .finally(() => busy(false));
  };
  return (
    <div class="who">
      {session.name !== null && <span title={`Tenant ${session.tenant}`}><Plain text={session.name} /></span>}
      <ThemeChoice />
      {session.expires !== null && <Button busy={isBusy} onPress={leave}>Sign out</Button>}
    </div>
  );
}

const THEMES = [
  { value: "system", title: "System colours" },
  { value: "light", title: "Light" },
  { value: "dark", title: "Dark" },
] as const;

function ThemeChoice() {
  const [theme, choose] = useState<Theme>(readTheme);
  return (
    <Select
      label="Colours"
      value={theme}
      options={THEMES}
      onChange={(next) => {
        choose(next);
        chooseTheme(next);
      }}
    />
  );
}
