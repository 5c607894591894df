"""What the programs of this folder ask the demo model, and what it answers in every mode."""

QUESTION = (
    "Solve this problem.\nMax has 5 boxes with 6 stickers each and 2 more stickers. How many stickers does Max have?"
)
ANSWER = "First, 5*6=30 stickers. Then, 30+2=32 stickers. Max has 32 stickers. The answer is \\boxed{32}."
MODEL = "demo_model"
