// Budgets and where they stand, as /v1/accounts/budgets tells them to more than one view.

export interface Standing {
  budget: string;
  subject: string;
  window: string;
  started_at: number; // Unix seconds
  resets_at: number | null;
  spent: number;
  reserved: number;
  left: number | null; // null: no bound
  spent_tokens: number;
  reserved_tokens: number;
  left_tokens: number | null;
}

export interface Budget {
  name: string;
  subject: string;
  window: string;
  money: number | null;
  tokens: number | null;
  is_fixed: boolean;
  standings: Standing[];
  has_more: boolean;
}
