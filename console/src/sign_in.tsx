// Where somebody says who they are: with a key or token of this server, which is sent once and kept nowhere on the page.

import { useState } from "preact/hooks";
import { ApiError } from "./api";
import { Button, Field, TextInput } from "./kit/controls";
import { ErrorNotice, Notice } from "./kit/notices";
import { explainRefusal, signIn, type Session } from "./session";

export function SignIn({ onSignedIn }: { onSignedIn: (session: Session) => void }) {
  const [secret, write] = useState("");
  const [isBusy, busy] = useState(false);
  const [error, fail] = useState<unknown>(null);

  async function send(): Promise<void> {
    busy(true);
    fail(null);
    try {
      const session = await signIn(secret.trim());
      write("");
      onSignedIn(session);
    } catch (problem) {
      fail(explainRefusal(problem, secret.trim()));
    } finally {
      busy(false);
    }
  }

  const isPlain = location.protocol === "http:" && !/^((.*\.)?localhost|127(\.\d+){3}|\[::1\])$/.test(location.hostname);
  const isWrong = error instanceof ApiError && error.status === 401;
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        if (!isBusy && secret.trim()) void send();
      }}
    >
      {isPlain && (
        <Notice kind="warn" title="This connection is not encrypted">
          <p>Whoever is between you and the server can read the key. Serve with TLS, or sign in from the server's own machine.</p>
        </Notice>
      )}
      <Field
        label="API key or token"
        hint="It is sent to this server alone. The page keeps a cookie that it cannot read itself."
        error={isWrong ? error.message : null}
      >
        <TextInput type="password" value={secret} onChange={write} autoComplete="current-password" required mono autoFocus />
      </Field>
      {error !== null && !isWrong && <ErrorNotice error={error} title="You are not signed in" />}
      <Button type="submit" kind="main" busy={isBusy}>Sign in</Button>
    </form>
  );
}
