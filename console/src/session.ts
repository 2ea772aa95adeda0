// Who is signed in. A sign-in trades a key or token for a cookie that this script cannot read; nothing secret is kept here.

import { createContext } from "preact";
import { useContext } from "preact/hooks";
import { ApiError, fetchJson, send } from "./api";

export interface Session {
  needs_sign_in: boolean; // nobody is signed in, and the server wants to know who calls
  name: string | null; // of the key, null where nobody has signed in
  tenant: string | null;
  scopes: string[];
  expires: number | null; // Unix seconds
}

export function readSession(signal?: AbortSignal): Promise<Session> {
  return fetchJson<Session>("/console/session", signal ? { signal } : {});
}

export function signIn(secret: string): Promise<Session> {
  return fetchJson<Session>("/console/session", { method: "POST", headers: { authorization: `Bearer ${secret}` } });
}

const LONG_CHARS = 3000; // shorter tokens pass every proxy that we know

// A long token that was refused in words that are not this server's: what stands in front takes no such header.
export function explainRefusal(problem: unknown, secret: string): unknown {
  const isForeign = problem instanceof ApiError && problem.status !== 0 && problem.code === `http_${problem.status}`;
  if (!isForeign || secret.length < LONG_CHARS) return problem;
  return new ApiError(
    problem.status,
    problem.code,
    `${problem.message} These are not its own words: a proxy in front of it may take no token of ${secret.length} ` +
      "characters. The console's guide says what to set there, under Signing in.",
    problem.requestId,
  );
}

export async function signOut(): Promise<void> {
  await send("/console/session", { method: "DELETE" });
}

// Who a conversation or a change belongs to, as far as the page can tell; the same for everybody where nobody signs in.
export function ownerOf(session: Session): string {
  return JSON.stringify([session.tenant, session.name]);
}

export function may(session: Session, scopes: readonly string[]): boolean {
  return scopes.length === 0 || scopes.some((scope) => session.scopes.includes(scope));
}

export const SessionContext = createContext<Session | null>(null);

// Within a view somebody is signed in, or everybody may do everything.
export function useSession(): Session {
  const session = useContext(SessionContext);
  if (session === null) throw new Error("A view is drawn before it is known who is signed in.");
  return session;
}
