"""The cross-modal patching protocol: what is asked, in which order, and the tables that come out.

settings -> plan (items, contexts, units of work) -> work (vectors in `bank`, sweeps, answers) -> tables.
Source of the method: Luo, Darrell & Bar, "Vision-Language Models Create Cross-Modal Task Representations" (ICML 2025,
arXiv 2410.22330), with matched budgets, controls and a layer choice on items that are never scored.
"""
