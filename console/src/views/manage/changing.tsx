// A change that is being made: pressed once, awaited, and its refusal shown beside the field that it names.

import { useState } from "preact/hooks";
import { ApiError } from "../../api";
import { ErrorNotice, Notice } from "../../kit";
import { fieldOf, FormError } from "./orders";

export interface Change {
  isRunning: boolean;
  error: unknown;
  // Runs it, unless one runs; whether it was done.
  run: (change: () => Promise<void>) => Promise<boolean>;
  clear: () => void;
}

export function useChange(): Change {
  const [isRunning, setRunning] = useState(false);
  const [error, fail] = useState<unknown>(null);
  return {
    isRunning,
    error,
    clear: () => fail(null),
    run: async (change) => {
      if (isRunning) return false;
      setRunning(true);
      fail(null);
      try {
        await change();
        return true;
      } catch (found) {
        fail(found);
        return false;
      } finally {
        setRunning(false);
      }
    },
  };
}

function paramOf(error: unknown): string | null {
  return error instanceof ApiError || error instanceof FormError ? error.param : null;
}

// What an error says of one of a form's fields.
export function errorAt(error: unknown, field: string, fields: readonly string[]): string | null {
  return error instanceof Error && fieldOf(paramOf(error), fields) === field ? error.message : null;
}

// An error that is about no field of the form.
export function ErrorBeside({ error, fields = [] }: { error: unknown; fields?: readonly string[] }) {
  if (error === null || fieldOf(paramOf(error), fields) !== null) return null;
  return <ErrorNotice error={error} />;
}

// In place of what a server does not have, or could not tell.
export function Missing({ error, what }: { error: unknown; what: string }) {
  if (error instanceof ApiError && error.status === 404) return <Notice title={`This server has no ${what}`} />;
  if (error instanceof ApiError && error.status === 403) return <Notice title={`You may not see the ${what}`} />;
  return <ErrorNotice error={error} />;
}
