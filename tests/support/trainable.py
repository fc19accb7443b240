"""Fake LMs that can be fine-tuned: they keep what they were trained on."""

import re
import threading
from collections.abc import Iterable
from typing import Any

from dspy.clients.provider import TrainingJob

from .fake_lm import FakeLM
from .roles import role


class TrainableLM(FakeLM):
    """A fake that can be fine-tuned; the trained one has its name with `+` and answers alike."""

    training: Any = None

    def finetune(self, train_data: Any, train_data_format: Any, train_kwargs: Any = None) -> TrainingJob:
        self.training = (authors(train_data), train_kwargs)
        thread = threading.Thread(target=lambda: None)
        thread.start()
        job = TrainingJob(thread=thread, model=self.model)
        job.set_result(TrainableLM(f"{self.model}+", self._fake.answers))
        return job


def authors(train_data: Iterable[Any]) -> list[str]:
    """Who wrote the replies to be learned, once for each."""
    replies = [example["messages"][-1]["content"] for example in train_data]
    return sorted(re.findall(r"(\w+) wrote this", "\n".join(replies)))


def trainees(*names: str) -> dict[str, TrainableLM]:
    """Fakes for these roles, all trainable."""
    return {name: TrainableLM(name, role(name)._fake.answers) for name in names}
