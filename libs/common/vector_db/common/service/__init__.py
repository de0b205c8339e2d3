"""What every service process needs: configuration, life cycle, health, telemetry, command line."""
