"use strict";
/* Prompts for an empty chat. The demo model answers the four tasks it was trained on; others get open questions. */
const Suggestions = (() => {
  const DEMO = [
    ["A word problem", "Solve this problem.\nMax has 5 boxes with 6 stickers each and 2 more stickers. How many stickers does Max have?"],
    ["A choice", "Choose one answer.\nWhich number is the smallest?\n\nA) 25\nB) 16\nC) 39\nD) 51"],
    ["A small function", 'Complete this function.\ndef build_answer(numbers):\n\t"""Return the number of the numbers below 11, each minus 3."""\n'],
    ["A text with rules", "Write about the ship. Add a title in << >>. Use the words window and summer."],
  ];
  const OPEN = [
    ["A word problem", "A train leaves at 9:40 and arrives at 13:05. It stands still for 18 minutes on the way. How long does it move? Think step by step."],
    ["A function", "Write a Python function that returns the longest palindrome in a string, and two tests for it."],
    ["An explanation", "Explain in four sentences how a text can be written by filling in masked words instead of from left to right."],
    ["A table", "Compare heat pumps, gas boilers and district heating in a table with costs, emissions and limits."],
  ];

  /** True if the served model is the bundled demo model. */
  function isDemo(card) {
    return [card?.id, card?.root].some((name) => String(name ?? "").split("/").pop() === "demo_model");
  }

  /** Returns pairs of title and prompt that fit the model. */
  const of = (card) => (isDemo(card) ? DEMO : OPEN);

  return { of, isDemo };
})();
