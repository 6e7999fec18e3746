"""Simulation of routing: the router's own policies on fleets, loads and disturbances that are drawn from a seed."""
