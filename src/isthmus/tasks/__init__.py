"""Ready-made tasks: a model, its data, its loss and how it is trained."""

from isthmus.tasks.table import TASKS as TASKS
from isthmus.tasks.table import task_named as task_named
