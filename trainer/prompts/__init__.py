"""What is said to models and read from them: templates, chat tokens, and the players' formats."""
