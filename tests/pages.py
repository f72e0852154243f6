"""What tests read of a page, and the metrics of a run for one."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """What is on a page: its elements, and the text of each kind of element."""

    def __init__(self, content):
        super().__init__()
        self.elements, self.texts, self._open = [], {}, []
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, "elements are not nested"

    def handle_data(self, data):
        self.texts.setdefault(self._open[-1] if self._open else "", []).append(data)

    def attributes(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def records(steps):
    common = {"reconstruction": 20.0, "kl": 3.0, "perplexity": 3.5, "codes_used": 11}
    common |= {"temperature": 0.7, "steps_per_second": 100.0}
    return [{"step": step, "split": "train", "neg_elbo": 23.0, **common} for step in steps]
