"""The page: one picture, any words, answered from cached features.

`question`, `session`, `snippets` and `downloads` know nothing of the web; `app` and `server` are the thin layer
above them; `static` is the page itself.
"""
