"""Captions, and questions with answers, made from pictures by a model: what the first two stages learn from."""

from cocoa.synthesis.chats import EndpointError, EndpointRefusedError, Engine, Reply, Sampling
from cocoa.synthesis.endpoint import Endpoint
from cocoa.synthesis.job import Summary, synthesize
from cocoa.synthesis.progress import Prices, Progress
from cocoa.synthesis.prompts import KINDS, Kind, Prompts, load_prompts

__all__ = [
    "KINDS",
    "Endpoint",
    "EndpointError",
    "EndpointRefusedError",
    "Engine",
    "Kind",
    "Prices",
    "Progress",
    "Prompts",
    "Reply",
    "Sampling",
    "Summary",
    "load_prompts",
    "synthesize",
]
