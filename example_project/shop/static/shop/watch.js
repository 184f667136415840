// Keeps the order's page up to date until the process has ended.
const board = document.querySelector("[data-watch]");
const confirmation = document.querySelector("[data-when-unconfirmed]");
let shown = "";

async function look() {
  try {
    const answer = await fetch(board.dataset.watch);
    if (answer.ok) {
      const html = await answer.text();
      // Replaced only when it differs, so that a click or a selection is not lost.
      if (html !== shown) {
        board.innerHTML = html;
        shown = html;
      }
    }
  } catch {
    // The server is away for a moment; the next look will tell.
  }
  const status = board.querySelector("[data-status]");
  confirmation.hidden = status.dataset.status !== "unconfirmed";
  if (!("ended" in status.dataset)) {
    setTimeout(look, 1000);
  }
}

look();
