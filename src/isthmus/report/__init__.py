"""Reports: figures, tables, sentences and pages, made from records; nothing is computed from models here."""

from isthmus.report.export import save_figures as save_figures
from isthmus.report.figures import plot as plot
from isthmus.report.html import write_report as write_report
