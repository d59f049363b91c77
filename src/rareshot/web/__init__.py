"""The page of `rareshot serve`: what one person's session holds (`session`), how it looks (`view`, `page`), who serves it.

It decides nothing about images or learners: `rareshot.predict` adapts and answers, and the page shows what it says.
"""
