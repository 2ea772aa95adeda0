// Which of many models fit what somebody types. Values only.

export interface ModelCard {
  id: string;
  owned_by?: string;
  context_length?: number | null;
  parent?: string | null;
  loaded?: boolean;
  aliases?: string[];
  tasks?: string[];
}

export interface Choices {
  shown: ModelCard[];
  numMore: number; // that fit as well and are not shown
}

const MAX_SHOWN = 100;

// Those that generate and whose name has every word; what begins with the first word comes first.
export function choose(cards: readonly ModelCard[], typed: string): Choices {
  const words = typed.toLowerCase().split(/\s+/).filter((word) => word !== "");
  const fitting = cards.filter((card) => {
    if (card.tasks !== undefined && !card.tasks.includes("generate")) return false;
    const names = [card.id, ...(card.aliases ?? [])].join(" ").toLowerCase();
    return words.every((word) => names.includes(word));
  });
  const first = words[0] ?? "";
  const begins = (card: ModelCard) => (card.id.toLowerCase().startsWith(first) ? 0 : 1);
  const ordered = first === "" ? fitting : [...fitting].sort((one, other) => begins(one) - begins(other));
  return { shown: ordered.slice(0, MAX_SHOWN), numMore: Math.max(0, ordered.length - MAX_SHOWN) };
}
