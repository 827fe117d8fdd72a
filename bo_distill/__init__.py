"""Distributed hyperparameter search and training for five published classification methods.

In a checkout its packages lie beside this folder: `methods` are the papers, `distributed` trains, `search` chooses
configurations and keeps what came of them. Installed they lie inside it, so that they meet no other project's names.
"""
