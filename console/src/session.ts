// Who is signed in. A sign-in trades a key or token for a cookie that this script cannot read; nothing secret is kept here.

import { fetchJson, send } from "./api";

export interface Session {
  needs_sign_in: boolean; // false: a server without keys, on this machine alone
  name: string | null; // of the key, null where nobody has signed in
  tenant: string | null;
  scopes: string[];
  expires: number | null; // Unix seconds
}

export function readSession(): Promise<Session> {
  return fetchJson<Session>("/console/session");
}

export function signIn(secret: string): Promise<Session> {
  return fetchJson<Session>("/console/session", { method: "POST", headers: { authorization: `Bearer ${secret}` } });
}

export async function signOut(): Promise<void> {
  await send("/console/session", { method: "DELETE" });
}

export function may(session: Session, scopes: readonly string[]): boolean {
  return scopes.length === 0 || scopes.some((scope) => session.scopes.includes(scope));
}
