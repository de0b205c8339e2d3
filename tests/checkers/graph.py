"""Strongly connected components and shortest cycles of graphs over small integers.

Everything is iterative and linear in nodes and edges: a history of tens of thousands of
transactions must not meet Python's recursion limit, nor a quadratic step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable

Edges = list[list[int]]
"""The successors of each node."""


def components(edges: Edges) -> list[list[int]]:
    """The strongly connected components that hold a cycle (Tarjan, 1972)."""
    count = len(edges)
    index = [0] * count  # 0: not seen yet
    low = [0] * count
    on_stack = bytearray(count)
    stack: list[int] = []
    found: list[list[int]] = []
    number = 0
    for root in range(count):
        if index[root]:
            continue
        number += 1
        index[root] = low[root] = number
        stack.append(root)
        on_stack[root] = 1
        work = [(root, iter(edges[root]))]
        while work:
            node, successors = work[-1]
            for successor in successors:
                if not index[successor]:
                    number += 1
                    index[successor] = low[successor] = number
                    stack.append(successor)
                    on_stack[successor] = 1
                    work.append((successor, iter(edges[successor])))
                    break
                if on_stack[successor]:
                    low[node] = min(low[node], index[successor])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    component = []
                    while True:
                        member = stack.pop()
                        on_stack[member] = 0
                        component.append(member)
                        if member == node:
                            break
                    if len(component) > 1 or node in edges[node]:
                        found.append(component)
    return found


def path(
    successors: Callable[[int], Iterable[int]], start: int, goal: int, within: Collection[int]
) -> list[int] | None:
    """A shortest path of at least one edge from `start` to `goal` inside `within`, both ends
    included."""
    came_from: dict[int, int] = {}
    queue = deque([start])
    while queue:
        node = queue.popleft()
        for successor in successors(node):
            if successor in within and successor not in came_from:
                came_from[successor] = node
                if successor == goal:
                    steps = [goal, node]
                    while steps[-1] != start:
                        steps.append(came_from[steps[-1]])
                    return steps[::-1]
                queue.append(successor)
    return None
