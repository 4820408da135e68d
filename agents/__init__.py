"""Who else can act: scripted experts and learned behavior policies that gather data."""
